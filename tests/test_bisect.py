"""The search for the rule or pass behind a difference."""

from __future__ import annotations

import json
import re

import pytest

from ascend_passes.__main__ import main
from ascend_passes.compile.bisect import BisectError, Switch, culprits, switched_off, switches
from ascend_passes.options.value import Options
from tests.test_validate import OWN_SPELLINGS, WRONG_RULE

MODEL = """
import torch

def gate():
    torch.manual_seed(0)
    return (lambda x, y: torch.nn.functional.silu(x) * y), tuple(torch.randn(2, 8, 64))

def no_tuple():
    return torch.nn.Identity()
"""


def off(options, switch):
    return f"-{switch.name}" in options.get(switch.option, "").split(",")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_culprit_is_found(count):
    every = switches(Options())
    guilty = set(every[5 :: len(every) // count][:count])
    tried = []

    def differs(options):
        tried.append(options)
        return any(not off(options, switch) for switch in guilty)

    assert set(culprits({}, differs)) == guilty
    assert len(tried) <= 2 + 8 * count


def test_a_pair_that_is_wrong_together_is_broken_up():
    one, other = Switch("rules", "rms_norm"), Switch("passes", "eliminate_zeros")

    def differs(options):
        return not off(options, one) and not off(options, other)

    (found,) = culprits({}, differs)
    assert found in (one, other)


def test_nothing_is_searched_where_results_agree():
    assert not list(culprits({}, lambda options: False))


def test_a_difference_that_is_not_ours_is_said():
    with pytest.raises(BisectError, match="switched off too"):
        list(culprits({}, lambda options: True))


def test_switches_come_behind_the_users_own():
    options = switched_off({"rules": "-*,+swiglu", "flashcomm": True}, [Switch("rules", "swiglu")])
    assert options == {"rules": "-*,+swiglu,-swiglu", "flashcomm": True, "passes": ""}


@pytest.fixture
def files(tmp_path):
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "my_gate.py").write_text(WRONG_RULE.format(order="y, x"))
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


@pytest.mark.parametrize("bound", [[], ["--bound", "1e-3"]])
def test_the_command_names_the_rule(files, capsys, bound):
    words = ["bisect", f"{files}/model.py:gate", "--option", f"rule_path={files}/rules"]
    assert main([*words, "--option", f"rules={OWN_SPELLINGS}", *bound]) == 1
    out = capsys.readouterr().out
    assert re.search(r"results differ by 0\.\d+|results differ by [1-9]", out)
    assert "culprit: rule my_gate" in out
    assert "right with --option rules=-my_gate" in out


def test_the_command_agrees_without_the_rule(files, capsys):
    assert main(["bisect", f"{files}/model.py:gate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["culprits"] == [] and found["distance"] < 1e-14


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.py:gate", "is no file"),
        ("model.py:absent", "has no function 'absent'"),
        ("model.py:no_tuple", "must return a model and a tuple"),
    ],
)
def test_what_is_no_model_is_one_line(files, capsys, name, reason):
    assert main(["bisect", f"{files}/{name}"]) == 2
    assert reason in capsys.readouterr().err
