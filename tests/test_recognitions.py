"""Every recognition passes every check; each check finds the fault that it is for."""

from __future__ import annotations

import dataclasses
import json
import secrets

import pytest
import torch

from ascend_passes import npu
from ascend_passes.__main__ import main
from ascend_passes.cli.rules import every_named, every_rule
from ascend_passes.compile.bisect import Switch, switches
from ascend_passes.compile.option_values import checked_options, rule_names
from ascend_passes.engine.registry import find
from ascend_passes.engine.rule import RuleError
from ascend_passes.meaning import gated, recognize
from ascend_passes.meaning.recognize import recognitions
from ascend_passes.options.types import OptionError
from ascend_passes.options.value import Options
from ascend_passes.verify import recognition
from ascend_passes.verify.recognition import check_recognition, recognition_page

NAMES = tuple(recognitions())


@pytest.mark.parametrize("name", NAMES)
def test_recognition(name):
    found = check_recognition(name, secrets.randbelow(2**31))
    assert not found, "\n".join(map(str, found))


@pytest.fixture
def changed(monkeypatch):
    """Makes a recognition another one for a test; answers are asked anew."""
    monkeypatch.setattr(recognize, "_answers", {})

    def change(name, **given):
        family, one = recognitions()[name]
        every = {**recognitions(), name: (family, dataclasses.replace(one, **given))}
        monkeypatch.setattr(recognition, "recognitions", lambda: every)

    return change


def faults(name):
    return {finding.check for finding in check_recognition(name, 1)}


def test_a_recognition_without_a_sentence_is_found(changed):
    changed("swiglu", summary="It becomes")
    assert faults("swiglu") == {"has_a_sentence"}


def test_a_spelling_of_something_else_is_found(changed):
    _, other = recognitions()["geglu"]
    changed("swiglu", spelled=other.spelled)
    assert faults("swiglu") >= {"becomes_its_operator", "takes_symbolic_sizes"}


def test_a_tolerance_that_is_too_small_for_a_recognition_is_found(changed):
    changed("swiglu", tolerance=0.1)
    assert faults("swiglu") == {"becomes_its_operator", "takes_symbolic_sizes"}


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda packed: packed.flip(-1), {"becomes_its_operator", "takes_symbolic_sizes"}),
        (lambda packed: packed[:6], {"takes_symbolic_sizes"}),
    ],
    ids=["wrong half", "as many rows as in the example"],
)
def test_a_wrong_operator_is_found(changed, monkeypatch, build, found):
    def wrong(x, other=None, *, side):
        return npu.npu_swiglu(build(gated.packed_for(x, other, side)), -1)

    monkeypatch.setattr(gated, "built_swiglu", wrong)
    assert faults("swiglu") == found


def test_a_switch_that_is_not_asked_is_found(changed, monkeypatch):
    monkeypatch.setattr(recognize, "is_wanted", lambda family, rule, options: True)
    assert faults("quantize_static") == {"is_switched_off"}


def test_a_spelling_that_raises_is_a_fault_and_no_crash(changed):
    def broken(x):
        raise ValueError("no such thing")

    changed("swiglu", spelled=broken)
    (first, *_) = [one for one in check_recognition("swiglu", 7) if "raised" in one.sentence]
    assert "ValueError: no such thing (seed 7)" in first.sentence


def test_the_page_says_how_it_is_known_and_whose_limits_hold():
    page = recognition_page("quant_matmul_dynamic")
    assert page.kind == "recognize" and page.source.endswith("quant_matmul.py")
    assert "sums of integers are exact" in page.documentation
    assert any("aclnnQuantMatmul" in limit for limit in page.limits)
    assert "aten.mm" in page.graph_before and "npu" not in page.graph_before
    assert "npu.npu_quant_matmul" in page.graph_after and "aten.mm" not in page.graph_after


def test_options_take_the_names_of_recognitions():
    assert set(NAMES) < set(rule_names(Options()))
    checked_options({"rules": "-rms_norm,+geglu", "expect": {"rotary_mul_interleaved": 2}})
    checked_options({"expect": {"rms_norm_of_widened_rows": 1}})
    with pytest.raises(OptionError, match="which does not exist"):
        checked_options({"rules": "-rms_norm_of_widened_rows"})


def test_a_recognition_that_is_off_does_not_fire_under_the_backend():
    torch._dynamo.reset()
    import ascend_passes

    given = [torch.randn(3, 64), torch.randn(3, 64)]
    for rules, wanted in (("", {"swiglu_unpacked": 1}), ("-swiglu_unpacked", {}), ("-*", {})):
        report = ascend_passes.explain(
            lambda x, y: torch.nn.functional.silu(x) * y, *given, options={"rules": rules}
        )
        assert report.fired == wanted, rules


RULE = '''"""A product becomes a sum."""
from typing import Annotated
from torch import Tensor
from ascend_passes import Rule
def pattern(x: Annotated[Tensor, "... H"]):
    return x * 2
def replacement(x):
    return x + x
rule = Rule(pattern, replacement, examples=[{"H": 64}])
'''


def test_a_users_rule_may_not_have_the_name_of_a_recognition(tmp_path):
    (tmp_path / "rms_norm.py").write_text(RULE)
    find.cache_clear()
    with pytest.raises(RuleError, match=r"rms_norm\.py is named as the recognition rms_norm is"):
        checked_options({"rule_path": str(tmp_path)})


def test_bisect_can_blame_a_recognition():
    every = switches(Options())
    stage = every.index(Switch("passes", "recognize"))
    assert every[stage + 1 : stage + 1 + len(NAMES)] == tuple(Switch("rules", n) for n in NAMES)
    assert Switch("rules", "rms_norm") not in switches(Options(rules="-rms_norm"))
    assert Switch("rules", "quantize_static") not in switches(Options(keep_nan=True))
    assert Switch("rules", "rms_norm") not in switches(Options(passes="-recognize"))


def test_the_commands_know_recognitions(capsys):
    assert main(["list", "--json", "--option", "rules=-geglu"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == sorted({*NAMES, *(rule.name for rule in every_rule(Options()))})
    assert {rows[name]["kind"] for name in NAMES} == {"recognize"}
    assert [name for name, row in rows.items() if not row["on"]] == ["geglu", "muls_add"]
    assert main(["show", "geglu", "--json"]) == 0
    assert "npu_geglu" in json.loads(capsys.readouterr().out)["graph_after"]
    assert main(["show", "rotary_mul"]) == 0
    assert "graph before, of one spelling" in capsys.readouterr().out
    assert main(["check", "rms_norm"]) == 0
    assert capsys.readouterr().out == "rms_norm: passed\n"
    assert main(["check", "rms_norm", "--bench"]) == 2
    assert "measures rules alone" in capsys.readouterr().err
    assert len(every_named(Options())) == len(rows)


def test_the_command_says_what_is_wrong_with_a_recognition(capsys, changed):
    changed("swiglu", tolerance=0.0)
    assert main(["check", "swiglu"]) == 1
    assert "becomes_its_operator, spelling swiglu: result 0 is" in capsys.readouterr().out
