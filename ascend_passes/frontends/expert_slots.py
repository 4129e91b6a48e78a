"""How a graph orders tokens by expert, read from its nodes: what is counted, sorted and inverted.

A slot is a token's choice: of K experts for each of T tokens there are T * K.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ascend_passes.engine.site import refuse_unless
from ascend_passes.ir.arguments import arguments, named_arguments
from ascend_passes.ir.graph import base, first, is_call, operator_name, same_sizes, value, written

aten = torch.ops.aten
SAME_NUMBERS = (
    *(aten.view.default, aten._unsafe_view.default, aten.reshape.default),
    *(aten.clone.default, aten._to_copy.default),
)
"""Operators that keep the numbers and their order, where no dtype rounds them."""
EXACT = (torch.int32, torch.int64, torch.float32, torch.float64)
"""Dtypes that hold the number of every expert."""
CHOICES = ("aten::topk", "npu::npu_moe_gating_top_k_softmax")
"""Operators whose second result are columns of their first argument."""
ROUTING = "npu::npu_moe_init_routing_v2"
COUNTED = 2
"""The result of the routing that counts rows."""


def stand_in(old: fx.Node, new: fx.Node) -> None:
    """Give the readers of a node another, of the same shape and dtype, and its value to that one.

    The readers' sizes were computed from this value, and two sizes of one expression that were
    computed apart are not one to a trace.
    """
    one, other = value(old), value(new)
    alike = one.dtype == other.dtype and same_sizes(one.shape, other.shape)
    refuse_unless(alike, f"it gives {one.dtype} of {list(one.shape)}")
    if same_sizes(one.stride(), other.stride()):
        new.meta["val"] = one
    old.replace_all_uses_with(new)


def refuse_written(start: fx.Node, end: fx.Node, *nodes: fx.Node) -> None:
    """Refuse where something between two nodes writes the memory of some that are now read there.

    Raises:
        Refused: with what writes it.
    """
    owners = {base(node) for node in nodes}
    node = start
    while node is not end:
        writes = any(base(target) in owners for target in written(node))
        refuse_unless(not writes, f"{node.name} writes what is read earlier or later then")
        node = node.next


def item_of(node: Any, *names: str) -> int | None:
    """Which result of one of these operators a node is; None for other nodes."""
    if not is_call(node, operator.getitem) or operator_name(node.args[0]) not in names:
        return None
    return int(node.args[1])


def plain(node: fx.Node) -> fx.Node:
    """What a node's numbers are, behind views, copies and casts that change none of them."""
    while is_call(node, *SAME_NUMBERS) and value(node).dtype in EXACT:
        node = first(node)
    return node


def chosen_experts(ids: fx.Node, experts: Any) -> fx.Node:
    """The experts [T, K] behind flat ones, each of which is below `experts`.

    Raises:
        Refused: they do not come from a choice among so many.
    """
    node = plain(ids)
    refuse_unless(item_of(node, *CHOICES) == 1, "the experts are no choice of the largest scores")
    choice = node.args[0]
    assert isinstance(choice, fx.Node)
    scores = value(first(choice))
    last = operator_name(choice) != CHOICES[0] or arguments(choice)[2] == scores.dim() - 1
    refuse_unless(last and scores.shape[-1] == experts, f"the choice is not of {experts} experts")
    return node


def counted_experts(counts: fx.Node) -> fx.Node:
    """The flat experts whose rows a histogram counts, each expert in a bin of its own.

    Raises:
        Refused: it is no such histogram.
    """
    refuse_unless(is_call(counts, aten.histc.default), "no histogram counts its groups")
    ids, bins, low, high = arguments(counts)
    refuse_unless((low, high) == (0, bins - 1), "its histogram has no bin for each expert")
    return flat_experts(ids)


def flat_experts(ids: fx.Node) -> fx.Node:
    """Experts in the order of slots, of which others may be the sorted ones."""
    node = plain(ids)
    return first(node.args[0]) if item_of(node, "aten::sort") == 0 else ids  # type: ignore[arg-type]


def summed_counts(offsets: fx.Node) -> fx.Node:
    """The counts [E] whose running sum the offsets [E] of a grouped product are.

    Raises:
        Refused: they are no such sum.
    """
    refuse_unless(is_call(offsets, aten.cumsum.default), "its offsets are no running sum")
    return first(offsets)


def counts_of_routing(offsets: fx.Node) -> fx.Node | None:
    """The counts behind offsets, where the NPU's routing gave them."""
    counts = first(offsets) if is_call(offsets, aten.cumsum.default) else None
    return counts if item_of(counts, ROUTING) == COUNTED else None


def rows_of_groups(offsets: fx.Node) -> Any:
    """How many rows all groups of a grouped product have together.

    Raises:
        Refused: the graph does not show it.
    """
    counts = summed_counts(offsets)
    if item_of(counts, ROUTING) == COUNTED:
        routing = counts.args[0]
        return value(named_arguments(routing)["expert_idx"]).numel()  # type: ignore[arg-type]
    ids = counted_experts(counts)
    chosen_experts(ids, value(counts).shape[0])
    return value(ids).numel()


def order_of(inverse: Any) -> fx.Node | None:
    """The order of slots, a sort's indices, whose inverse a node is: written by `p[order] = 0, 1,
    ...`; None for other nodes."""
    if not is_call(inverse, aten.index_put.default):
        return None
    base, indices, numbers, *rest = inverse.args
    order = indices[0] if len(indices) == 1 else None
    if not isinstance(order, fx.Node) or item_of(order, "aten::sort") != 1:
        return None
    whole = value(order).dim() == 1 and same_sizes(value(base).shape, value(order).shape)
    return order if whole and not any(rest) and is_counting(numbers) else None


def is_counting(node: Any) -> bool:
    """Whether a node is 0, 1, 2 and so on."""
    if not isinstance(node, fx.Node) or operator_name(node) != "aten::arange":
        return False
    given = named_arguments(node)
    return (given.get("start", 0), given.get("step", 1)) == (0, 1)
