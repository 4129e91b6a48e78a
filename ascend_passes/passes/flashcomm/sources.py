"""The all_reduces that FlashComm deals out in rows, and why others stay."""

from __future__ import annotations

from torch import Tensor, fx

from ascend_passes.distributed.groups import (
    FUNCTIONAL,
    VLLM,
    Group,
    family_of,
    group_name,
    plain_collective,
)
from ascend_passes.ir.graph import same_size, value, writes_possible
from ascend_passes.ir.traits import ALL_REDUCE
from ascend_passes.passes.flashcomm.sharded_rows import Rows, operator_is_wait, source_input


def is_source(node: fx.Node) -> bool:
    """Whether a node gives the result of an all_reduce: the call itself, or the one wait for it."""
    if operator_is_wait(node):
        started = node.args[0]
        return isinstance(started, fx.Node) and plain_collective(started) == ALL_REDUCE
    return plain_collective(node) == ALL_REDUCE and family_of(node) == VLLM


def unfit_source(call: fx.Node, group: Group | None) -> str:
    """Why an all_reduce cannot become a reduce_scatter and an all_gather; "" where it can."""
    family, result = family_of(call), value(call)
    if group is None:
        return f"the group {group_name(call)!r} is not known to this process"
    if group.size < 2:
        return "the group has one rank"
    if family == FUNCTIONAL and call.args[1] != "sum":
        return f"the all_reduce computes {call.args[1]!r}, and only sums are dealt out in rows"
    if family == FUNCTIONAL and writes_possible(call.target) and len(source_input(call).users) > 1:
        return "the all_reduce writes a value that others read as well"
    if not isinstance(result, Tensor) or result.dim() < 2:
        return "the reduced value has no rows"
    if same_size(Rows(group, tuple(result.shape[:-1])).count, 1):
        return "there is one row only"
    if family != VLLM and not all(map(operator_is_wait, call.users)):
        return "the all_reduce is read before it is waited for"
    return ""
