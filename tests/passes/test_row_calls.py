"""The call on a rank's rows gives that rank's rows, for every operator that says so."""

from __future__ import annotations

import secrets

import pytest
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ascend_passes import npu
from ascend_passes.passes.flashcomm.row_calls import LocalCall, RowsOf
from ascend_passes.passes.flashcomm.row_operators import local_call
from tests.npu.examples import named_call

ROWS, WIDTH = 6, 5
NAMES = [name for name, operator in npu.OPERATORS.items() if operator.rows]
RANKS_ROWS = slice(2, 5)


def single(name: str, given: dict) -> tuple[fx.Node, dict[fx.Node, Tensor]]:
    """A graph of one call, and the tensors that its placeholders stand for."""
    graph, values = fx.Graph(), {}
    placed = dict(given)
    for key, one in given.items():
        if isinstance(one, Tensor):
            placed[key] = graph.placeholder(key)
            placed[key].meta["val"] = one
            values[placed[key]] = one
    target = npu.packet(name).default
    positional = [e.name for e in target._schema.arguments if not e.kwarg_only and e.name in placed]
    node = graph.call_function(target, tuple(placed.pop(key) for key in positional), placed)
    node.meta["val"] = npu.call(name, **given)
    return node, values


def local_results(answer: LocalCall, values: dict[fx.Node, Tensor]) -> list[Tensor]:
    """The call as FlashComm writes it, on one rank's rows."""

    def read(argument):
        if isinstance(argument, RowsOf):
            return values[argument.node].flatten(0, argument.lead - 1)[RANKS_ROWS]
        return values.get(argument, argument) if isinstance(argument, fx.Node) else argument

    args, kwargs = fx.node.map_aggregate((answer.args, dict(answer.kwargs)), read)
    return [one for one in pytree.tree_leaves(answer.target(*args, **kwargs)) if one is not None]


def shaped(name: str, lead: int) -> dict:
    """A call whose rows have this many dimensions."""
    given = named_call(name, secrets.randbelow(2**31), ROWS, WIDTH, torch.bfloat16)
    rows = npu.OPERATORS[name].rows
    return {
        key: one.contiguous().unflatten(0, (2, 3)) if lead == 2 and key in rows else one
        for key, one in given.items()
    }


@pytest.mark.parametrize("lead", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_the_local_call_gives_the_rows(name, lead):
    given = shaped(name, lead)
    node, values = single(name, given)
    rows = npu.OPERATORS[name].rows
    answer = local_call(node, lambda one: lead if one.target in rows else 0)
    assert isinstance(answer, LocalCall), answer
    whole = [one.flatten(0, lead - 1) for one in pytree.tree_leaves(node.meta["val"])]
    for found, wanted in zip(local_results(answer, values), whole, strict=True):
        assert found.dtype == wanted.dtype
        assert torch.allclose(found.double(), wanted[RANKS_ROWS].double(), rtol=0.02, atol=1)


@pytest.mark.parametrize("name", NAMES)
def test_rows_where_all_rows_serve_are_refused(name):
    given = shaped(name, 1)
    node, _ = single(name, given)
    rows = npu.OPERATORS[name].rows
    others = [key for key, one in given.items() if isinstance(one, Tensor) and key not in rows]
    for other in others:
        answer = local_call(node, lambda one, other=other: int(one.target in (*rows, other)))
        assert isinstance(answer, str) and other in answer


def test_operands_of_another_number_of_rows_are_refused():
    x, other = torch.randn(ROWS, 8), torch.randn(1, 8)
    graph = fx.Graph()
    first, second, gain = (graph.placeholder(name) for name in ("x1", "x2", "gain"))
    for node, one in ((first, x), (second, other), (gain, torch.ones(8))):
        node.meta["val"] = one
    node = graph.call_function(torch.ops.npu.npu_add_rms_norm.default, (first, second, gain))
    node.meta["val"] = (x, x, x)
    answer = local_call(node, lambda one: int(one is first))
    assert isinstance(answer, str) and "rows of different shapes" in answer


def test_a_dimension_of_the_rows_is_refused_and_one_behind_them_is_renumbered():
    x = torch.randn(2, 3, 8, 4)
    for dim, wanted in ((0, None), (1, None), (2, 1), (3, 2), (-1, -1)):
        graph = fx.Graph()
        source = graph.placeholder("x")
        source.meta["val"] = x
        node = graph.call_function(torch.ops.npu.npu_swiglu.default, (source,), {"dim": dim})
        node.meta["val"] = torch.empty(2, 3, 8, 4)
        answer = local_call(node, lambda one: 2)
        if wanted is None:
            assert isinstance(answer, str) and "holds rows" in answer
        else:
            assert isinstance(answer, LocalCall) and answer.kwargs["dim"] == wanted
