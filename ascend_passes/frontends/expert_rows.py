"""Rows in the order of experts and back: `npu_moe_init_routing_v2`, `npu_moe_finalize_routing`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ascend_passes.engine.site import Site, refuse_unless
from ascend_passes.frontends.expert_slots import (
    SAME_NUMBERS,
    chosen_experts,
    counted_experts,
    item_of,
    order_of,
    refuse_written,
    stand_in,
)
from ascend_passes.ir.arguments import arguments
from ascend_passes.ir.edit import AUTHOR
from ascend_passes.ir.graph import first, is_call, is_view, same_sizes, value

aten = torch.ops.aten
GATHER, SCATTER = 0, 1
"""row_idx_type: where each slot's row is, or which slot each row is of."""


def weighted_sums(graph: fx.Graph) -> Iterator[fx.Node]:
    """Sums over each token's rows, which were in another order."""
    for node in graph.find_nodes(op="call_function", target=aten.sum.dim_IntList):
        rows = first(node)
        index = first(rows) if is_call(rows, aten.view.default) else None
        if over_choices(node) and order_of(looked_up_by(index)) is not None:
            yield node


def over_choices(total: fx.Node) -> bool:
    """Whether a sum is over the second of three dims, in the dtype of what is summed."""
    rows, dims, keep, _ = arguments(total)
    same = value(rows).dtype == value(total).dtype
    return value(rows).dim() == 3 and dims in ((1,), [1]) and not keep and same


def looked_up_by(index: Any) -> Any:
    """By what the rows of a tensor are looked up; None where a node does not do that alone."""
    if not is_call(index, aten.index.Tensor):
        return None
    places = index.args[1]
    return places[0] if len(places) == 1 else None


def weighted_sum(site: Site) -> None:
    """Rows times their weights, in the order of slots again and summed over each token's choices.

    The spelling's product may be rounded; the operator's is not.
    """
    shaped = first(site.node)
    index = first(shaped)
    inverse = looked_up_by(index)
    order = order_of(inverse)
    assert order is not None
    rows, weights = weighted_rows(first(index), order)
    refuse_written(order, site.node, rows, weights, inverse, first(index), order)
    rows, weights = (of_dtype(site, one, value(shaped).dtype) for one in (rows, weights))
    tokens, choices, _ = value(shaped).shape
    refuse_unless(
        same_sizes(value(weights).shape, (tokens, choices)), "its weights are not one of each slot"
    )
    places = site.call(aten._to_copy.default, inverse, dtype=torch.int32)
    by_choice = site.call(
        aten.permute.default, site.call(aten.view.default, places, [-1, choices]), [1, 0]
    )
    dense = site.call(aten.clone.default, by_choice, memory_format=torch.contiguous_format)
    total = site.npu(
        "npu_moe_finalize_routing",
        expanded_permuted_rows=rows,
        skip1=None,
        skip2=None,
        bias=None,
        scales=weights,
        expanded_src_to_dst_row=site.call(aten.view.default, dense, [-1]),
        export_for_source_row=None,
    )
    stand_in(site.node, total)


def of_dtype(site: Site, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    """A factor in the dtype of the product, which holds all numbers of both factors' dtypes: the
    operator takes rows and weights of one."""
    if value(node).dtype == dtype:
        return node
    return site.call(aten._to_copy.default, node, dtype=dtype)


def weighted_rows(product: fx.Node, order: Any) -> tuple[fx.Node, fx.Node]:
    """The rows [T * K, H] and the weights [T, K] of a product of rows and weights in an order.

    Raises:
        Refused: it is no such product.
    """
    factors = product.args if is_call(product, aten.mul.Tensor) else ()
    for rows, column in (factors, factors[::-1]):
        weights = weights_in_order(column, order)
        if weights is not None and isinstance(rows, fx.Node):
            return rows, weights
    refuse_unless(False, "its rows are not times their weights")
    raise AssertionError


def weights_in_order(column: Any, order: Any) -> fx.Node | None:
    """The weights [T, K] of which a column [T * K, 1] has those of the slots in an order."""
    while isinstance(column, fx.Node) and is_view(column):
        column = first(column)
    if looked_up_by(column) is not order:
        return None
    weights = first(column)
    while is_view(weights) and is_call(weights, *SAME_NUMBERS):
        weights = first(weights)
    return weights


@dataclass(frozen=True)
class Expansion:
    """Rows that a graph brings into the order of experts."""

    tokens: fx.Node
    """[T, H]"""
    chosen: fx.Node
    """[T, K], the experts of each token."""
    slots: fx.Node
    """[T * K], the same, flat; they are sorted."""
    order: fx.Node
    """[T * K], the indices of the sort."""
    counts: fx.Node
    """[E], how many slots each expert has."""
    rows: fx.Node
    """[T * K, H], each slot's token in the order; the first lookup, where there are several."""


def sorted_slots(graph: fx.Graph) -> Iterator[fx.Node]:
    """Sorts of experts that a histogram counts."""
    for node in graph.find_nodes(op="call_function", target=aten.sort.default):
        if any(is_call(reader, aten.histc.default) for reader in readers_of_sorted(node)):
            yield node


def readers_of_sorted(sort: fx.Node) -> list[fx.Node]:
    """What reads the sorted numbers, behind casts."""
    found = [user for user in sort.users if item_of(user, "aten::sort") == 0]
    return [reader for one in found for user in one.users for reader in past_casts(user)]


def past_casts(node: fx.Node) -> list[fx.Node]:
    """A node, or what reads it where it is a cast."""
    return list(node.users) if is_call(node, aten._to_copy.default) else [node]


def expansion_of(sort: fx.Node) -> Expansion:
    """What a sort of experts is for.

    Raises:
        Refused: it is for something else as well, or the graph does not show what it is for.
    """
    slots, _, descending = arguments(sort)
    refuse_unless(value(slots).dim() == 1 and not descending, "its experts do not ascend")
    readers = readers_of_sorted(sort)
    refuse_unless(len(readers) == 1, "its sorted experts are read besides")
    order = next(user for user in sort.users if item_of(user, "aten::sort") == 1)
    refuse_unless(counted_experts(readers[0]) is slots, "its histogram is of other experts")
    chosen = chosen_experts(slots, value(readers[0]).shape[0])
    lookups = list(lookups_of_tokens(order, value(chosen).shape[-1]))
    refuse_unless(bool(lookups), "no tokens are looked up in its order")
    return Expansion(first(lookups[0]), chosen, slots, order, readers[0], lookups[0])


def lookups_of_tokens(order: fx.Node, choices: Any) -> Iterator[fx.Node]:
    """Nodes that look up the token of each slot."""
    for token in order.users:
        if is_call(token, aten.floor_divide.default) and same_divisor(token, order, choices):
            yield from sorted(node for node in token.users if looked_up_by(node) is token)


def same_divisor(token: fx.Node, order: fx.Node, choices: Any) -> bool:
    """Whether a node divides an order of slots by the number of each token's choices."""
    return token.args[0] is order and isinstance(token.args[1], int) and token.args[1] == choices


def expansion(site: Site) -> None:
    """Experts that are sorted and counted, and tokens that are looked up in their order.

    A sort that is not stable may give slots of one expert in any order, and so may the operator.
    Who reads the order gets the operator's; an inverse of it is what the operator gives as well.
    """
    found = expansion_of(site.node)
    refuse_unless(found.tokens < site.node, "its tokens are made behind the sort")
    last = max(found.rows, found.counts)
    refuse_written(site.node, last, found.tokens, found.slots, found.order, found.counts)
    inverses = [user for user in found.order.users if order_of(user) is found.order]
    readers = [user for user in found.order.users if not only_for(user, {*inverses, found.rows})]
    gather = len(inverses) == 1 and not readers
    routed = routed_rows(site, found, GATHER if gather else SCATTER)
    replace_counts(site, found.counts, site.item(routed, 2))
    places = site.item(routed, 1)
    if gather:
        replace_places(site, inverses[0], places)
    else:
        replace_order(site, found, places)
    stand_in(found.rows, site.item(routed, 0))


def only_for(user: fx.Node, replaced: set[fx.Node]) -> bool:
    """Whether a node is of no use where some are replaced."""
    return user in replaced or (bool(user.users) and replaced.issuperset(user.users))


def routed_rows(site: Site, found: Expansion, kind: int) -> fx.Node:
    """The operator's call; the experts in int32, which the NPU's choice gives."""
    chosen, experts = found.chosen, value(found.counts).shape[0]
    if value(chosen).dtype != torch.int32:
        chosen = site.call(aten._to_copy.default, chosen, dtype=torch.int32)
    slots = value(found.slots).shape[0]
    if not isinstance(slots, int):
        slots = site.call(aten.sym_size.int, found.slots, 0)
    return site.npu(
        "npu_moe_init_routing_v2",
        x=found.tokens,
        expert_idx=chosen,
        active_num=slots,
        expert_num=experts,
        expert_tokens_num_type=1,
        expert_tokens_num_flag=True,
        active_expert_range=[0, experts],
        row_idx_type=kind,
    )


def replace_counts(site: Site, old: fx.Node, counts: fx.Node) -> None:
    """Give who reads a histogram the operator's counts; a running sum with a dtype of its own needs
    no cast."""
    for reader in list(old.users):
        if is_call(reader, aten.cumsum.default) and reader.kwargs.get("dtype") is not None:
            reader.replace_input_with(old, counts)
    if old.users:
        cast = site.call(aten._to_copy.default, counts, dtype=value(old).dtype)
        old.replace_all_uses_with(cast)


def replace_places(site: Site, inverse: fx.Node, places: fx.Node) -> None:
    """Give who reads where each slot's row is the operator's places, in their dtype or, where the
    weighted sum narrows them, as they are."""
    for reader in list(inverse.users):
        narrows = is_call(reader, aten._to_copy.default) and value(reader).dtype == torch.int32
        if narrows and reader.meta.get(AUTHOR) == site.rule:
            reader.replace_all_uses_with(places)
    inverse.replace_all_uses_with(site.call(aten._to_copy.default, places, dtype=torch.int64))


def replace_order(site: Site, found: Expansion, slots: fx.Node) -> None:
    """Give who reads the order the operator's, but for what looks up the tokens."""
    wide = site.call(aten._to_copy.default, slots, dtype=torch.int64)
    for reader in list(found.order.users):
        if not only_for(reader, {found.rows}):
            reader.replace_input_with(found.order, wide)
