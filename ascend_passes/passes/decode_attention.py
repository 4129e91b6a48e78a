"""Attention of a decode step becomes one operator that reads keys and values once.

`scaled_dot_product_attention` of one query row has many kernels behind it, of which the fast ones
are made for prompts. `ascend_passes::decode_attention` is ours for CUDA: query heads that share a
key head are rows of one product, and the length is split over as many programs as the GPU runs. An
NPU has CANN's own operator, and a CPU gains nothing. The pass is off unless `passes` asks for it:
on an H200 cuDNN's attention takes as long, `tests/bench/own_kernels.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site, refuse_unless
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.edit import AUTHOR
from ascend_passes.ir.graph import (
    Context,
    operator_name,
    place,
    plain_size,
    same_size,
    same_strides,
    value,
)
from ascend_passes.options.value import switched_on
from ascend_passes.passes.grouped_attention import ATTENTION, MASKS, has_view
from ascend_passes.passes.grouped_attention import RULE as GROUPED
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten
RULE = "decode_attention"


def rewrite_decode_attention(graph: fx.Graph, context: Context) -> Report:
    """Rewrite attention of one query token of each sequence, in place.

    The result agrees with torch's up to the order of sums and the rounding of the weights.
    """
    if not switched_on(RULE, context.options.passes, False):
        return Report()
    fired = 0
    misses: list[Miss] = []
    for node in [n for n in graph.nodes if is_step(n)]:
        try:
            exchange_attention(Site(node, context.options.soc, RULE))
        except Refused as refused:
            misses.append(Miss(RULE, node.name, place(node), str(refused)))
        else:
            fired += 1
    remove_dead(graph)
    return Report(fired={RULE: fired} if fired else {}, misses=tuple(misses))


def is_step(node: fx.Node) -> bool:
    """Whether a node is attention of one row, or of the rows that `grouped_attention` made of one
    row's heads."""
    if operator_name(node) not in ATTENTION:
        return False
    rows = plain_size(value(named_arguments(node)["query"]).shape[2])
    return rows == 1 or node.meta.get(AUTHOR) == GROUPED


def exchange_attention(site: Site) -> None:
    """Put our operator in the place of an attention.

    Raises:
        Refused: it is not provably the same, or outside the operator's limits.
    """
    node, given = site.node, named_arguments(site.node)
    require_plain(node, given)
    mask = next((given[name] for name in MASKS if given.get(name) is not None), None)
    heads = key_heads(given)
    query = grouped(site, given["query"], heads)
    call = site.npu(
        RULE,
        query=query,
        key=given["key"],
        value=given["value"],
        mask=None if mask is None else grouped(site, four_sizes(site, mask), heads),
        lengths=None,
        scale=given.get("scale"),
    )
    (old,) = node.users
    result = call
    if query is not given["query"]:
        batch, _, rows, size = sizes(site, query)
        result = site.call(aten.view.default, call, [batch, heads * rows, 1, size])
    alike = same_strides(value(old), value(result))
    refuse_unless(alike, "later readers rely on the layout that the kernel gives its result")
    old.replace_all_uses_with(result)
    for gone in (old, node):
        node.graph.erase_node(gone)


def require_plain(node: fx.Node, given: Mapping[str, Any]) -> None:
    """Check that nothing but the result is asked for, and that all keys count; errors as in
    `exchange_attention`."""
    alone = len(node.users) == 1 and all(
        user.target is operator.getitem and user.args[1] == 0 for user in node.users
    )
    refuse_unless(alone, "more than the result of the attention is read")
    refuse_unless(not given.get("is_causal"), "a causal mask of one row hides all keys but one")
    refuse_unless(not given.get("dropout_p"), "it drops weights at random")


def key_heads(given: Mapping[str, Any]) -> int:
    """How many heads the keys have; errors as in `exchange_attention`."""
    heads = plain_size(value(given["key"]).shape[1])
    asked = plain_size(value(given["query"]).shape[1])
    known = heads is not None and asked is not None and asked % heads == 0
    refuse_unless(known, "the heads of the query are no multiple of those of the keys")
    assert heads is not None
    return heads


def four_sizes(site: Site, mask: fx.Node) -> fx.Node:
    """A mask with sizes of 1 in front, so that it has four."""
    while value(mask).dim() < 4:
        mask = site.call(aten.unsqueeze.default, mask, 0)
    return mask


def grouped(site: Site, source: fx.Node, heads: int) -> fx.Node:
    """`[B, heads * G, 1, N]` as `[B, heads, G, N]`; one that has as many heads, or one, as it is.

    Raises:
        Refused: that would take a copy.
    """
    batch, every, _, last = sizes(site, source)
    if not isinstance(every, int) or every in (1, heads):
        return source
    refuse_unless(same_size(value(source).shape[2], 1), "each head has rows of its own")
    shape = [batch, heads, every // heads, last]
    whole = has_view(source, tuple(fx.map_arg(shape, value)))
    refuse_unless(whole, "the heads that share a key head do not lie side by side")
    return site.call(aten.view.default, source, shape)


def sizes(site: Site, source: fx.Node) -> list[Any]:
    """The sizes of a value: numbers, or nodes that give them."""
    return [
        size if isinstance(size, int) else site.call(aten.sym_size.int, source, dim)
        for dim, size in enumerate(value(source).shape)
    ]
