"""A rotation by a cache of cosines and sines in NPU operators: a lookup, then one per tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from ascend_passes.engine.site import Arguments, Site, refuse_unless
from ascend_passes.ir.graph import value
from ascend_passes.ir.trace import fake_mode_of, faking

aten = torch.ops.aten


@dataclass(frozen=True)
class Heads:
    """Which columns of a head are turned."""

    size: int
    start: int
    width: int


def rotary_embedding(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`_C::rotary_embedding(positions, query!, key!, head_size, cos_sin_cache, is_neox, ...)`.

    `npu_mrope` without sections means the same. Each row of the cache is cosines, then sines, of
    half of what is turned in each head, from column `rope_dim_offset` on. Positions are as many as
    tokens by the operator's contract, though a graph may have two symbols for the number.
    """
    cache, head, query = given["cos_sin_cache"], given["head_size"], given["query"]
    refuse_unless(value(given["positions"]).dim() == 1, "positions have more than one row")
    refuse_unless(not given.get("inverse"), "the rotation is an inverse one")
    refuse_unless(value(cache).dtype == value(query).dtype, "cache and query have different dtypes")
    heads = Heads(head, start=given.get("rope_dim_offset", 0), width=value(cache).shape[1])
    rows = site.call(aten.index_select.default, cache, 0, given["positions"])
    angles = [
        whole_head(site, rows, query, start, heads.width, given["is_neox"])
        for start in (0, heads.width // 2)
    ]
    mode = "half" if given["is_neox"] else "interleave"
    return {
        name: rotated_heads(site, given[name], angles, heads, mode)
        for name in ("query", "key")
        if given.get(name) is not None
    }


def whole_head(
    site: Site, rows: fx.Node, query: fx.Node, start: int, head: int, halves: bool
) -> fx.Node:
    """Cosines (start 0) or sines of a whole head, [1, T, 1, D], from the cache's rows of halves."""
    half = site.call(aten.slice.Tensor, rows, 1, start, start + head // 2, 1)
    if halves:
        whole = site.call(aten.cat.default, [half, half], 1)
    else:
        whole = site.call(aten.stack.default, [half, half], -1)
    shaped = site.call(aten.view.default, whole, [1, token_count(site, query), 1, head])
    with faking(fake_mode_of([value(whole)])):  # by contract, where the shape rules see two symbols
        shaped.meta["val"] = value(whole).new_empty([1, value(query).shape[0], 1, head])
    return shaped


def rotated_heads(
    site: Site, x: fx.Node, angles: list[fx.Node], heads: Heads, mode: str
) -> fx.Node:
    """[T, heads * D] or [T, heads, D] rotated, in its own shape."""
    tokens = token_count(site, x)
    width = math.prod(value(x).shape[1:])
    refuse_unless(isinstance(width, int), "the number of heads is not known while compiling")
    by_head = site.call(aten.view.default, x, [1, tokens, width // heads.size, heads.size])
    stop = heads.start + heads.width
    cos, sin = angles
    before, turned, behind = (
        columns_of_heads(site, by_head, start, end)
        for start, end in ((0, heads.start), (heads.start, stop), (stop, heads.size))
    )
    result = site.npu("npu_rotary_mul", input=turned[0], r1=cos, r2=sin, rotary_mode=mode)
    if before or behind:
        result = site.call(aten.cat.default, [*before, result, *behind], -1)
    return site.call(aten.view.default, result, [tokens, *value(x).shape[1:]])


def columns_of_heads(site: Site, by_head: fx.Node, start: int, end: int) -> list[fx.Node]:
    """Some columns of each head, if there are any: none is cut where all of them are asked for."""
    if end - start == value(by_head).shape[-1]:
        return [by_head]
    return [site.call(aten.slice.Tensor, by_head, 3, start, end, 1)] if start < end else []


def token_count(site: Site, x: fx.Node) -> int | fx.Node:
    """The first size of x, as a number or as a node that computes it."""
    size = value(x).shape[0]
    return size if isinstance(size, int) else site.call(aten.sym_size.int, x, 0)
