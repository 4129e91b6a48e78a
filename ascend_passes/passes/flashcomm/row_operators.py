"""Operators that work row by row: the call on a rank's rows gives that rank's rows of the result.

A value's *rows* are its first `lead` dimensions flattened: `[T, H]` has lead 1, Hugging Face's
`[B, S, H]` lead 2. On one rank it becomes `[R, H]`, R = ceil(T / tp). `local_call` answers for one
node with that call, or with a sentence that says why there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import operator_name, same_size, same_sizes, value
from ascend_passes.ir.traits import traits_of
from ascend_passes.passes.flashcomm.row_calls import (
    Answer,
    Flat,
    LeadOf,
    LocalCall,
    RowsOf,
    by_traits,
)

aten = torch.ops.aten


def local_call(node: fx.Node, lead_of: LeadOf) -> Answer:
    """How `node` acts on one rank's rows, given the row dimensions of its operands."""
    found = handler(node)
    return found(node, lead_of) if found is not None else None


def handler(node: fx.Node) -> Callable[[fx.Node, LeadOf], Answer] | None:
    """What answers `local_call` for the node's operator; None for one that is not row-wise."""
    name = operator_name(node)
    if not name or not isinstance(value(node), (Tensor, tuple, list)):
        return None
    traits = traits_of(node.target)
    if traits.keeps_order:
        return reshaped_rows
    if traits.rows:
        return by_traits
    if name in HANDLERS:
        return HANDLERS[name]
    tags = node.target.tags  # type: ignore[union-attr]
    if torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags:
        return pointwise
    return None


def pointwise(node: fx.Node, lead_of: LeadOf) -> Answer:
    """Element by element over broadcast operands: add, mul, rsqrt, silu, where."""
    out = value(node)
    if not isinstance(out, Tensor):
        return None
    lead = result_lead(node, out, lead_of)
    operands = [n for n in node.all_input_nodes if isinstance(value(n), Tensor)]
    local = {operand: local_operand(operand, out, lead, lead_of(operand)) for operand in operands}
    if lead == 0 or None in local.values():
        return f"{operator_name(node)} broadcasts along the rows, so ranks would need others' rows"
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: local.get(n, n))
    several = sum(isinstance(operand, RowsOf) for operand in local.values()) > 1
    return LocalCall("sink_add" if several else "sink_pointwise", node.target, args, kwargs, lead)


def result_lead(node: fx.Node, out: Tensor, lead_of: LeadOf) -> int:
    """Row dimensions of a broadcast result; 0 where its first dimensions are not the operand's."""
    for operand in node.all_input_nodes:
        lead = lead_of(operand)
        if lead == 0:
            continue
        shape = value(operand).shape
        extra = out.dim() - len(shape)
        rows_kept = same_sizes(out.shape[extra : extra + lead], shape[:lead])
        return extra + lead if rows_kept and all(same_size(s, 1) for s in out.shape[:extra]) else 0
    return 0


def local_operand(operand: fx.Node, out: Tensor, lead: int, own_lead: int) -> Any:
    """What stands for a broadcast operand in the local call; None where its rows do not line up."""
    shape = value(operand).shape
    tail = out.dim() - lead
    row_dimensions = shape[: max(0, len(shape) - tail)]
    if own_lead:
        aligned = same_sizes(row_dimensions, out.shape[lead - own_lead : lead])
        return RowsOf(operand, own_lead) if aligned and len(row_dimensions) == own_lead else None
    if all(same_size(size, 1) for size in row_dimensions):
        return operand if len(row_dimensions) <= 1 else Flat(operand, tail)
    complete = same_sizes(row_dimensions, out.shape[lead - len(row_dimensions) : lead])
    rest = out.shape[: lead - len(row_dimensions)]
    if complete and all(same_size(size, 1) for size in rest):
        return RowsOf(operand, len(row_dimensions))
    return None


def reshaped_rows(node: fx.Node, lead_of: LeadOf) -> Answer:
    """Views that keep the rows apart; the local one is written as a reshape of the other dims."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    lead, shape, out = lead_of(source), value(source).shape, value(node)
    if not isinstance(out, Tensor) or out.dtype != value(source).dtype:
        return None
    if lead == 0 or not same_size(math.prod(out.shape), math.prod(shape)):
        return f"{operator_name(node)} changes the number of elements"
    kept = leading(out.shape, math.prod(shape[:lead]))
    if kept == 0:
        return f"{operator_name(node)} mixes rows with other dimensions"
    rows = RowsOf(source, lead)
    tail = out.shape[kept:]
    if not all(isinstance(size, int) for size in tail):
        return f"{operator_name(node)} gives columns a size that is only known at run time"
    args = (rows, [-1, *tail]) if not same_sizes(tail, shape[lead:]) else (rows,)
    target = aten.reshape.default if len(args) == 2 else None
    return LocalCall("sink_view", target, args, {}, kept, moves_data=False)


def one_of_several(node: fx.Node, lead: int) -> LocalCall:
    """`getitem` of an operator with several outputs, each of which has rows."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    args = (RowsOf(source, lead), node.args[1])
    return LocalCall("sink_view", node.target, args, {}, lead, moves_data=False)


def leading(shape: Any, count: Any) -> int:
    """The least number of leading dimensions whose product is `count`; 0 where there is none.

    A view is in row-major order, so such dimensions hold the rows whole and in order.
    """
    return next((k for k in range(1, len(shape)) if same_size(math.prod(shape[:k]), count)), 0)


def cast_rows(node: fx.Node, lead_of: LeadOf) -> Answer:
    """`_to_copy`: a cast works on each element; another device or layout is refused."""
    moved = {key for key, given in node.kwargs.items() if given is not None} - {
        "dtype",
        "non_blocking",
    }
    if (
        moved - {"memory_format", "layout", "device", "pin_memory"}
        or lead_of_first(node, lead_of) == 0
    ):
        return "the cast does more than change the type"
    source = node.args[0]
    if value(source).device != value(node).device:  # type: ignore[arg-type]
        return "the cast moves the rows to another device"
    dtype = {"dtype": value(node).dtype}
    lead = lead_of_first(node, lead_of)
    return LocalCall("sink_pointwise", aten._to_copy.default, (RowsOf(source, lead),), dtype, lead)  # type: ignore[arg-type]


def copied_rows(node: fx.Node, lead_of: LeadOf) -> Answer:
    """`copy(target, source)` has the source's values; one follows transformers' all_reduce."""
    target, source = node.args[0], node.args[1]
    assert isinstance(target, fx.Node) and isinstance(source, fx.Node)
    a, b = value(target), value(source)
    if lead_of(source) == 0 or a.dtype != b.dtype or not same_sizes(a.shape, b.shape):
        return "the copy casts or broadcasts its source"
    rows = RowsOf(source, lead_of(source))
    return LocalCall("sink_view", None, (rows,), {}, rows.lead, moves_data=False)


def lead_of_first(node: fx.Node, lead_of: LeadOf) -> int:
    """Row dimensions of the first argument."""
    return lead_of(node.args[0]) if isinstance(node.args[0], fx.Node) else 0


HANDLERS: Mapping[str, Callable[[fx.Node, LeadOf], Answer]] = MappingProxyType(
    {"aten::_to_copy": cast_rows, "aten::copy": copied_rows}
)
"""Operators that work row by row with some arguments only, as no trait says it."""
