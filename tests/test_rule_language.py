"""What a rule can say beside tensors and numbers: groups, lists, choices among values and
operators."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import pytest
import torch
from torch import Tensor

from ascend_passes import Rule, npu
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.engine.registry import load
from ascend_passes.engine.rewrite import rewrite
from ascend_passes.engine.rule import RuleError
from ascend_passes.ir.graph import Context
from ascend_passes.verify import check
from tests.graphs import traced

EXAMPLES = [{"M": 4, "N": 8}, {"M": 16, "N": 64}]
Matrix = Annotated[Tensor, "M N"]
ALL_REDUCED = '''
"""A product that is summed over ranks, added and normalised, in two calls."""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "M K"]
Weight = Annotated[Tensor, "K N"]
Stream = Annotated[Tensor, "M N"]
Gain = Annotated[Tensor, "N"]
collectives = torch.ops._c10d_functional


def pattern(x: Rows, weight: Weight, residual: Stream, gamma: Gain, *, eps: float, group: str):
    started = collectives.all_reduce(torch.mm(x, weight), "sum", group)
    total = collectives.wait_tensor(started)
    y, _, out = npu.npu_add_rms_norm(total, residual, gamma, eps)
    return y, out


def replacement(x: Tensor, weight: Tensor, residual: Tensor, gamma: Tensor, *, eps, group):
    total = npu.npu_mm_all_reduce_base(x, weight, npu.hcom(group, x.device.type))
    y, _, out = npu.npu_add_rms_norm(total, residual, gamma, eps)
    return y, out


rule = Rule(
    pattern,
    replacement,
    examples=[{"M": 4, "K": 64, "N": 32}, {"M": 16, "K": 256, "N": 128}],
    dtypes=(torch.bfloat16, torch.float16),
)
'''


@pytest.fixture
def rule_of(tmp_path):
    """Loads a rule from its text, under the name `written`."""

    def loaded(text):
        path = tmp_path / "written.py"
        path.write_text(text)
        return load(path)

    return loaded


def faults(rule):
    """What `check` finds, without what it says of a rule that has no file."""
    return [str(one) for one in check(rule) if one.check != "is_documented"]


def test_a_collective_stands_in_a_rule_and_is_checked(rule_of):
    rule = rule_of(ALL_REDUCED)
    assert check(rule) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("torch.mm(x, weight)", "ULP from float64"),  # nothing is summed over ranks
        ('npu.npu_mm_all_reduce_base(x, weight, "another group")', "not known here"),
    ],
)
def test_a_replacement_that_loses_its_group_is_found(rule_of, wrong, told):
    right = "npu.npu_mm_all_reduce_base(x, weight, npu.hcom(group, x.device.type))"
    assert ALL_REDUCED.count(right) == 1
    found = faults(rule_of(ALL_REDUCED.replace(right, wrong)))
    assert any(told in sentence for sentence in found), found


def test_a_rule_with_a_collective_takes_the_graph_s_group(rule_of):
    rule = rule_of(ALL_REDUCED)

    def layer(x, weight, residual, gamma):
        started = torch.ops._c10d_functional.all_reduce(x @ weight, "sum", "tp")
        total = torch.ops._c10d_functional.wait_tensor(started)
        y, _, out = npu.npu_add_rms_norm(total, residual, gamma, 1e-6)
        return y, out

    half = {"dtype": torch.bfloat16}
    given = [torch.ones(*sizes, **half) for sizes in ((4, 8), (8, 6), (4, 6), (6,))]
    graph = traced(layer, given).graph
    assert not rewrite(graph, [rule], Context()).fired  # nobody knows the group's size
    with assuming(Group("tp", 4, 0)):
        assert rewrite(graph, [rule], Context()).fired == {"written": 1}
    (call,) = graph.find_nodes(
        op="call_function", target=torch.ops.npu.npu_mm_all_reduce_base.default
    )
    assert call.args[2] == "tp"


def rolled(x: Matrix, *, shifts: list[int]):
    return torch.roll(torch.sin(x), shifts, [0, 1])


def rolled_first(x: Tensor, *, shifts: list[int]):
    return torch.sin(torch.roll(x, shifts, [0, 1]))


def rolled_rule(pattern=rolled, **more):
    given = {"values": {"shifts": [[1, 2], [3, 1]]}} | more
    return Rule(pattern, rolled_first, examples=EXAMPLES, name="rolled", **given)


def test_a_list_of_numbers_reaches_the_replacement():
    rule = rolled_rule()
    assert faults(rule) == []
    graph = traced(lambda x: torch.roll(x.sin(), [2, 5], [0, 1]), [torch.ones(4, 8)]).graph
    assert rewrite(graph, [rule], Context()).fired == {"rolled": 1}
    (call,) = graph.find_nodes(op="call_function", target=torch.ops.aten.roll.default)
    assert list(call.args[1]) == [2, 5]


def test_a_list_that_is_a_literal_of_the_pattern_too_is_an_error():
    def twice(x: Matrix, *, shifts: list[int]):
        return torch.roll(torch.roll(x, [1, 2], [0, 1]), shifts, [0, 1])

    (fault, *_) = faults(rolled_rule(twice))
    assert "has one of its values as a literal too" in fault


def test_a_list_without_values_is_an_error():
    with pytest.raises(RuleError, match=r"give values=\{'shifts': \[\[...\], \[...\]\]\}"):
        rolled_rule(values={})


def cast(x: Matrix, *, dtype: torch.dtype, negative: bool):
    wide = x.to(torch.float64)
    return (-wide if negative else wide).to(dtype)


def cast_at_once(x: Tensor, *, dtype: torch.dtype, negative: bool):
    return (x.double() * (-1 if negative else 1)).to(dtype)


def test_bools_and_dtypes_are_choices():
    rule = Rule(cast, cast_at_once, examples=EXAMPLES, dtypes=(torch.float32,), name="cast")
    assert [one.name for one in rule.spellings] == [
        "cast",
        "cast[negative]",
        "cast[dtype=float16]",
        "cast[dtype=float16,negative]",
        "cast[dtype=float32]",
        "cast[dtype=float32,negative]",
    ]
    assert rule.name_of(rule.spellings[3]) == "cast.cast[dtype=float16,negative]"


ACTIVATIONS = Literal[torch.ops.aten.relu.default, torch.ops.aten.sigmoid.default]


def activated(x: Matrix, *, activation: ACTIVATIONS):
    return activation(x * 3.0 * 0.5)


def activated_plainly(x: Tensor, *, activation):
    return activation(x * 1.5)


def test_a_set_of_operators_is_one_function():
    rule = Rule(activated, activated_plainly, examples=EXAMPLES, name="activated")
    assert faults(rule) == []
    for operator, count in ((torch.relu, 1), (torch.sigmoid, 1), (torch.tanh, 0)):
        function = functools.partial(activated, activation=operator)
        graph = traced(function, [torch.ones(2, 8)]).graph
        assert rewrite(graph, [rule], Context()).fired.get("activated", 0) == count


def test_what_no_scalar_can_be_is_told():
    def pattern(x: Matrix, *, device: torch.device):
        return x.to(device)

    with pytest.raises(RuleError, match="declare it as int, float, str or list"):
        Rule(pattern, pattern, examples=EXAMPLES)
