"""Every shipped rule passes every check; each check finds the fault that it is for."""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Annotated

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

import ascend_passes
from ascend_passes import Rule, npu
from ascend_passes.__main__ import main
from ascend_passes.cli.rules import every_rule
from ascend_passes.engine import bind, emission, hazards, rewrite, template
from ascend_passes.npu.accuracy import SINGLE
from ascend_passes.options.value import Options
from ascend_passes.verify import check, checks, findings

RULES = every_rule(Options())
PACKAGE = Path(ascend_passes.__file__).parent
MOST_LINES = 300
MOST_SPELLINGS = 8
INT8 = 1  # torch's number for the dtype
Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "1"]


def tried(rule):
    """A rule as a parameter; a large family takes a minute, which `make check` leaves out."""
    marks = [pytest.mark.own_process] if len(rule.spellings) > MOST_SPELLINGS else []
    return pytest.param(rule, id=rule.name, marks=marks)


@pytest.mark.parametrize("one", checks.CHECKS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("rule", [tried(rule) for rule in RULES])
def test_rule(rule, one):
    seed = secrets.randbelow(2**31)
    found = [f for spelling in rule.spellings for f in findings(rule, spelling, one, seed)]
    assert not found, "\n".join(map(str, found))


def swiglu(gate: Rows, up: Rows):
    return silu(gate) * up


def swiglu_swapped(gate, up):
    return npu.npu_swiglu(torch.cat([up, gate], -1), -1)


def swiglu_right(gate, up):
    return npu.npu_swiglu(torch.cat([gate, up], -1), -1)


def norm(x: Rows, gamma: Gain, *, eps: float):
    wide = x.to(torch.float32)
    return gamma * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def norm_right(x, gamma, *, eps):
    return npu.npu_rms_norm(x, gamma, eps)[0]


def norm_of_other_sign(x, gamma, *, eps):
    return npu.npu_rms_norm(x, gamma, -eps)[0]


def norm_of_own_epsilon(x, gamma, *, eps):
    return npu.npu_rms_norm(x, gamma, 0.25)[0]


def norm_without_gain(x, gamma, *, eps):
    return npu.npu_rms_norm(x, torch.ones_like(gamma), eps)[0]


def norm_in_another_layout(x, gamma, *, eps):
    return npu.npu_rms_norm(x, gamma, eps)[0].transpose(0, -1).contiguous().transpose(0, -1)


def added(x: Rows, residual: Rows, gamma: Gain, scale: Scale, *, eps: float):
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return npu.npu_quantize(y, scale, None, INT8, -1, True), total


def added_with_other_mode(x, residual, gamma, scale, *, eps):
    whole = scale.expand(gamma.shape).contiguous()
    y, _, total = npu.npu_add_rms_norm_quant(
        x, residual, gamma, whole, None, epsilon=eps, div_mode=False
    )
    return y, total


def broken(pattern, replacement, **given):
    """A rule with the sizes of this file."""
    return Rule(pattern, replacement, **{"examples": [{"H": 64}], "name": "broken", **given})


def names_of(rule):
    """The checks that find something."""
    return {finding.check for finding in check(rule)}


def findings_of(rule, one):
    """What one check says."""
    return findings(rule, rule.spellings[0], one, secrets.randbelow(2**31))


@pytest.mark.parametrize(
    ("pattern", "replacement", "finder"),
    [
        (swiglu, swiglu_swapped, checks.fires_and_agrees),
        (norm, norm_of_other_sign, checks.fires_and_agrees),
        (norm, norm_of_own_epsilon, checks.scalars_matter),
        (norm, norm_without_gain, checks.fires_and_agrees),
        (added, added_with_other_mode, checks.fires_and_agrees),
    ],
    ids=lambda function: function.__name__,
)
def test_a_wrong_replacement_is_found(pattern, replacement, finder):
    assert findings_of(broken(pattern, replacement, tolerance=SINGLE), finder)


def test_right_rules_pass():
    assert not names_of(broken(swiglu, swiglu_right, tolerance=SINGLE))
    assert not names_of(broken(norm, norm_right, tolerance=SINGLE))


def test_a_replacement_that_keeps_the_strides_to_itself_is_not_applied():
    found = findings_of(broken(norm, norm_in_another_layout), checks.fires_and_agrees)
    assert any("strides" in str(finding) for finding in found), found


def test_a_tolerance_that_is_too_small_is_found():
    """`test_right_rules_pass` has the same operator without the rounding, within its tolerance."""
    rounded = broken(swiglu, lambda gate, up: swiglu_right(gate, up).half().to(gate.dtype))
    assert findings_of(dataclasses.replace(rounded, tolerance=0.01), checks.fires_and_agrees)


def test_a_pattern_that_never_matches_is_found():
    def never(gate):
        yield gate.dim() > 9, "gate has few dims"

    rule = broken(swiglu, swiglu_right, where=never, tolerance=SINGLE)
    assert "gate has few dims" in str(findings_of(rule, checks.fires_and_agrees))


def test_a_scalar_that_changes_nothing_is_found():
    def clamped(x: Rows, *, limit: float):
        return torch.clamp(x, -128.0, limit + 1000.0)

    def unclamped(x, *, limit):
        return x * 1.0

    assert "scalars_matter" in names_of(broken(clamped, unclamped))


def test_a_limit_on_rows_is_found():
    def few(x):
        yield x.shape[0] < 1000, "there are many rows"

    rule = broken(swiglu, swiglu_right, where=lambda gate: few(gate), tolerance=SINGLE)
    found = findings_of(rule, checks.takes_symbolic_rows)
    assert any("cannot be proved" in str(finding) for finding in found), found


def test_a_file_without_a_word_is_found(tmp_path):
    path = tmp_path / "silent.py"
    path.write_text("\n" * 70)
    rule = broken([norm, swiglu], norm_right, source=str(path))
    found = findings_of(rule, checks.is_documented)
    assert len(found) == 2, found  # too long, and the spelling says nothing


def test_the_command_checks_one_rule(capsys):
    assert main(["check", "swiglu_quant_dynamic"]) == 0
    assert "swiglu_quant_dynamic: passed" in capsys.readouterr().out


def test_the_command_measures_a_rule(capsys):
    assert main(["check", "swiglu_quant_dynamic", "--bench", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["swiglu_quant_dynamic"]
    assert (figures["kernels_before"], figures["kernels_after"]) == (2, 1)
    assert 0 < figures["site"] < figures["first"]  # what is traced once is not traced again


def test_the_command_checks_a_folder_and_names_what_is_wrong(capsys, tmp_path):
    assert main(["new", "swapped", "--folder", str(tmp_path)]) == 0
    path = tmp_path / "swapped.py"
    path.write_text(path.read_text().replace("cat([gate, up]", "cat([up, gate]"))
    capsys.readouterr()
    assert main(["check", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "swapped: FAILED" in text
    assert "fires_and_agrees" in text


def test_a_matcher_that_ignores_literals_is_found(monkeypatch):
    monkeypatch.setattr(bind, "same_literal", lambda wanted, given: True)
    assert findings_of(broken(norm, norm_right, tolerance=SINGLE), checks.literals_count)


def test_an_engine_that_takes_shared_values_is_found(monkeypatch):
    monkeypatch.setattr(rewrite, "refuse", lambda found, effects: None)
    assert findings_of(broken(norm, norm_right, tolerance=SINGLE), checks.shared_values_stay)


def test_an_engine_that_looks_over_writes_is_found(monkeypatch):
    monkeypatch.setattr(hazards, "refuse_boundary", lambda effects, found, earliest: None)
    assert findings_of(broken(swiglu, swiglu_right, tolerance=SINGLE), checks.respects_writes)


def test_a_matcher_for_one_order_of_operands_is_found(monkeypatch):
    monkeypatch.setattr(template, "COMMUTATIVE", frozenset())
    assert findings_of(broken(norm, norm_right, tolerance=SINGLE), checks.operands_commute)


def test_no_ops_that_stay_are_found(monkeypatch):
    monkeypatch.setattr(checks, "normalize", lambda graph: None)
    assert findings_of(broken(norm, norm_right, tolerance=SINGLE), checks.sees_through_no_ops)


def test_a_condition_that_is_not_asked_is_found(monkeypatch):
    def wide(H):
        yield H >= 64, f"H is {H}"

    rule = broken(norm, norm_right, where=wide, tolerance=SINGLE)
    assert not findings_of(rule, checks.conditions_refuse)
    monkeypatch.setattr(emission, "conditions", lambda *given: iter(()))
    assert findings_of(rule, checks.conditions_refuse)


def test_each_line_of_where_is_tried(monkeypatch):
    def two(H):
        yield H >= 64, f"H is {H}, less than 64"
        yield H % 2 == 0, f"H is {H}, not even"

    def never(H):
        yield H >= 64, f"H is {H}, less than 64"
        yield H > 0, f"H is {H}"

    assert not findings_of(
        broken(norm, norm_right, where=two, tolerance=SINGLE), checks.conditions_refuse
    )
    (dead,) = findings_of(
        broken(norm, norm_right, where=never, tolerance=SINGLE), checks.conditions_refuse
    )
    assert "falsifies line 2 of where" in str(dead)
    first = emission.refusal
    monkeypatch.setattr(
        emission, "refusal", lambda given: None if "even" in given[1] else first(given)
    )
    (deaf,) = findings_of(
        broken(norm, norm_right, where=two, tolerance=SINGLE), checks.conditions_refuse
    )
    assert "fires although" in str(deaf) and "not even" in str(deaf)


def test_files_stay_short():
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {path for path, count in lines.items() if count > MOST_LINES}
