"""Choices in a pattern: which spellings they make, what switches them, and which are no forms."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, TypeVar

import pytest
import torch
from torch import Tensor

from ascend_passes import Rule, npu
from ascend_passes.compile.option_values import checked_options
from ascend_passes.compile.stages import recognizes
from ascend_passes.engine.misses import worth_telling
from ascend_passes.engine.registry import find, identity, rules
from ascend_passes.engine.rewrite import rewrite
from ascend_passes.engine.rule import RuleError
from ascend_passes.ir.graph import Context
from ascend_passes.npu.accuracy import SINGLE
from ascend_passes.options.types import OptionError
from ascend_passes.options.value import Options
from ascend_passes.report.value import Miss, Place
from ascend_passes.verify import check
from ascend_passes.verify.choices import is_form
from tests.graphs import rule_named, traced

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
WideGain = Annotated[Tensor, "H", torch.float32]
Whole = Annotated[Tensor, "H", torch.int32]
Either = TypeVar("Width", Gain, WideGain)
Point = TypeVar("Width", Gain, Whole)
INT8 = 1  # torch's number for the dtype


def names_of(rule):
    return [spelling.name for spelling in rule.spellings]


def made(pattern, replacement=None, **given):
    """A rule with the sizes of this file."""
    return Rule(pattern, replacement or pattern, examples=[{"H": 64}], name="made", **given)


def test_each_combination_is_a_spelling_named_after_its_choices():
    def pattern(x: Rows, a: Gain | None, b: Gain | WideGain, *, mode: Literal["one", "two"]):
        return x * b if a is None else x * b + a

    assert names_of(made(pattern)) == [
        "pattern",
        "pattern[mode=two]",
        "pattern[b:WideGain]",
        "pattern[b:WideGain,mode=two]",
        "pattern[a]",
        "pattern[a,mode=two]",
        "pattern[a,b:WideGain]",
        "pattern[a,b:WideGain,mode=two]",
    ]


def test_type_variables_of_one_name_choose_together():
    def pattern(x: Rows, scale: Either, zero: Point, scale2: Either | None):
        return x * scale + zero

    rule = made(pattern)
    assert names_of(rule) == [
        "pattern", "pattern[scale2]", "pattern[WideGain]", "pattern[WideGain,scale2]"
    ]  # fmt: skip
    dtypes = [[item.dtype for item in spelling.inputs] for spelling in rule.spellings]
    assert dtypes[1] == [None] * 4
    assert dtypes[3] == [None, torch.float32, torch.int32, torch.float32]


def test_a_combination_for_which_the_pattern_returns_none_is_no_spelling():
    def pattern(x: Rows, a: Gain | None, b: Gain | None):
        if b is not None and a is None:
            return None
        return [x * one for one in (a, b) if one is not None] or x * 2

    assert names_of(made(pattern)) == ["pattern", "pattern[a]", "pattern[a,b]"]


def test_a_pattern_that_returns_nothing_is_refused():
    def pattern(x: Rows, a: Gain | None):
        x * 2

    def forgotten(x: Rows):
        """Without choices it is traced first."""

    gm = traced(lambda x: x * 2, [torch.randn(3, 64)])
    with pytest.raises(RuleError, match="must return values"):
        rewrite(gm.graph, [made(forgotten)], Context())
    assert not rewrite(gm.graph, [made(pattern)], Context()).fired
    assert {"pattern has no form", "pattern[a] has no form"} <= {
        finding.sentence.partition(":")[0] for finding in check(made(pattern))
    }


def test_an_input_that_is_given_and_not_used_is_a_fault():
    def pattern(x: Rows, a: Gain | None):
        return x * 2

    gm = traced(lambda x: x * 2, [torch.randn(3, 64)])
    with pytest.raises(RuleError, match=r"pattern\[a\] does not use a"):
        rewrite(gm.graph, [made(pattern)], Context())


def test_a_choice_reaches_the_replacement_and_where():
    asked = []

    def pattern(x: Rows, gamma: Gain, *, eps: float, double: Literal[False, True]):
        wide = x.to(torch.float32)
        y = gamma * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)
        return y * 2 if double else y

    def replacement(x, gamma, *, eps, double):
        y, _ = npu.npu_rms_norm(x, gamma, eps)
        return y * 2 if double else y

    def where(H, double):
        asked.append(double)
        yield H < 8194, f"H is {H}"

    assert not check(made(pattern, replacement, where=where, tolerance=SINGLE))
    assert {False, True} <= set(asked)
    wrong = made(
        pattern, lambda x, gamma, eps: npu.npu_rms_norm(x, gamma, eps)[0], tolerance=SINGLE
    )
    assert {finding.spelling for finding in check(wrong)} == {"pattern[double]"}


def quantized(x: Rows, scale: Gain | WideGain, *, divide: Literal[True, False]):
    return npu.npu_quantize(x, scale, None, INT8, -1, divide)


def behind_itself(x, scale, *, divide):
    return npu.npu_quantize(x.abs(), scale, None, INT8, -1, divide)


def test_what_the_operators_refuse_at_every_dtype_is_no_form():
    """Multiplying, rows and scale are of one dtype; dividing, float16 is no scale."""
    rule = made(quantized, dtypes=(torch.float16,))
    forms = [spelling.name for spelling in rule.spellings if is_form(rule, spelling)]
    assert forms == ["quantized[divide=False]", "quantized[scale:WideGain]"]
    both = made(quantized, behind_itself, dtypes=(torch.float16,))
    found = {finding.spelling for finding in check(both) if finding.check == "fires_and_agrees"}
    assert found == set(forms)


def test_a_choice_that_is_no_form_with_any_other_is_a_fault():
    def pattern(x: Rows, scale: Gain, *, divide: Literal[False, True]):
        """Only multiplying, as the scale is float16."""
        return npu.npu_quantize(x, scale, None, INT8, -1, divide)

    found = [str(one) for one in check(made(pattern, dtypes=(torch.float16,)))]
    assert any("pattern[divide] has no form" in sentence for sentence in found), found


def spelled(options):
    (rule,) = (rule for rule in rules(options) if rule.name == "add_rms_norm_quant")
    return {rule.name_of(spelling) for spelling in rule.spellings}


def test_a_switch_turns_one_spelling_off_or_on():
    every = spelled(Options())
    assert {"add_rms_norm_quant", "add_rms_norm_quant[scale2]"} < every
    off = checked_options({"rules": "-add_rms_norm_quant[zero,bias], -add_rms_norm_quant[scale2]"})
    assert every - spelled(off) == {
        "add_rms_norm_quant[scale2]", "add_rms_norm_quant[zero,bias]"
    }  # fmt: skip
    on = checked_options({"rules": "-*,+add_rms_norm_quant[scale2]"})
    assert [rule.name for rule in rules(on)] == ["add_rms_norm_quant"]
    assert spelled(on) == {"add_rms_norm_quant[scale2]"}
    assert rules(off) == rules(dataclasses.replace(off))  # kept, and their templates with them
    assert identity(off) != identity(Options())


def test_a_spelling_that_is_off_does_not_fire():
    (rule,) = rule_named("add_rms_norm")
    gm = traced(
        lambda x, residual, gamma: npu.npu_rms_norm(x + residual, gamma, 1e-6)[0],
        [torch.randn(3, 64), torch.randn(3, 64), torch.randn(64)],
    )
    off = dataclasses.replace(rule, without=frozenset(names_of(rule)))
    assert not rewrite(gm.graph, [off], Context()).fired
    report = rewrite(gm.graph, [rule], Context())
    assert report.fired == {"add_rms_norm": 1}
    assert list(report.spellings.values()) == [1]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("add_rms_norm_quant[two]", "add_rms_norm_quant["),
        ("add_rms_norm_quant_two", "add_rms_norm_quant"),
        ("gemma_rms_norm_heads", "gemma_rms_norm"),
        ("quant_matmul_statics", "quant_matmul_static"),
    ],
)
def test_a_name_that_is_almost_one_names_it(name, meant):
    for given in ({"rules": f"-{name}"}, {"expect": {name: 1}}):
        with pytest.raises(OptionError, match="Did you mean") as told:
            checked_options(given)
        assert f"Did you mean '{meant}" in str(told.value)


def test_expect_counts_a_family_and_its_spellings(monkeypatch):
    monkeypatch.setenv("ASCEND_PASSES_EXPECT", "rms_norm=2,rms_norm_quant[zero,bias]=1")
    assert dict(checked_options(None).expect) == {"rms_norm": 2, "rms_norm_quant[zero,bias]": 1}


def test_of_a_rules_whole_misses_the_one_that_came_furthest_is_told():
    told = {"node": "mul", "place": Place(), "complete": True}
    wide = Miss("rope", reason="sin has 2 users, 1 outside the pattern", depth=9, **told)
    narrow = Miss("rope", reason="x has 4 rows", depth=6, **told)
    other = Miss("rms_norm", reason="the gain is float16", depth=4, **told)
    assert worth_telling([wide, narrow, other]) == [wide, other]
    assert worth_telling([other, narrow, wide]) == [other, wide]
    equal = dataclasses.replace(wide, reason="of a spelling that was asked later")
    assert worth_telling([wide, equal]) == [wide]


HELPER = '''
"""What the rules here share."""
from typing import Annotated
from torch import Tensor
Rows = Annotated[Tensor, "... H"]
FACTOR = {factor}
'''
RULE = '''
"""A product becomes a sum."""
from ascend_passes import Rule
from ._shared import FACTOR, Rows
def pattern(x: Rows):
    return x * FACTOR
def replacement(x):
    return x + x
rule = Rule(pattern, replacement, examples=[{"H": 64}], kind="recognize")
'''


def test_rules_of_a_users_folder_share_helpers_and_recognize(tmp_path):
    (tmp_path / "doubled.py").write_text(RULE)
    seen = set()
    for factor in (2, 3):
        (tmp_path / "_shared.py").write_text(HELPER.format(factor=factor))
        find.cache_clear()
        options = checked_options({"rule_path": str(tmp_path)})
        (rule,) = (rule for rule in rules(options) if rule.name == "doubled")
        assert recognizes(rule)
        assert rule.pattern(1) == factor
        seen.add(identity(options))
    assert len(seen) == 2
    find.cache_clear()


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(RuleError, match="'recognize', 'fuse'"):
        made(quantized, kind="recognise")
