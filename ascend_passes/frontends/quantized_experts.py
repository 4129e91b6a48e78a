"""Products of experts whose rows and weights are int8 numbers read back as floats become products
of the int8 numbers.

`npu_grouped_matmul` then takes the scales: one of each row and one of each column of each expert.
It sums exactly and rounds once, where the spelling rounds rows and weights too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ascend_passes import npu
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site, refuse_unless
from ascend_passes.frontends.vllm_operators import erase_between
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.graph import (
    Context,
    first,
    is_call,
    place,
    same_sizes,
    value,
)
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten
CODES = {torch.float16: 5, torch.bfloat16: 15}
"""Result's dtype -> output_dtype."""
OF_COLUMNS = {torch.float16: torch.float32, torch.bfloat16: torch.bfloat16}
"""Result's dtype -> what the operator takes as the scales of columns."""
TURNED = [0, 2, 1]


@dataclass(frozen=True)
class Scaled:
    """Floats that are int8 numbers times scales."""

    numbers: fx.Node
    scales: fx.Node
    """Of a shape that broadcasts over the numbers."""


def quantized_experts(graph: fx.Graph, context: Context) -> Report:
    """Give grouped products the int8 numbers of their factors, in place."""
    fired, misses = 0, []
    for node in list(graph.nodes):
        if not is_call(node, npu.packet("npu_grouped_matmul").default):
            continue
        given = named_arguments(node)
        weight = scaled_weight(given["weight"][0])
        if weight is None:
            continue
        last = node.prev
        try:
            of_int8(Site(node, context.options.soc, "quantized_experts"), given, *weight)
            fired += 1
        except Refused as refusal:
            erase_between(last, node)
            misses.append(
                Miss("quantized_experts", node.name, place(node), str(refusal), complete=True)
            )
    remove_dead(graph)
    return Report(fired={"quantized_experts": fired} if fired else {}, misses=tuple(misses))


def scaled_weight(weight: fx.Node) -> tuple[Scaled, bool] | None:
    """The int8 numbers of a weight [E, K, N], and whether they lie as [E, N, K]."""
    turned = is_call(weight, aten.permute.default) and list(weight.args[1]) == TURNED  # type: ignore[arg-type]
    found = read_back(first(weight) if turned else weight)
    return None if found is None else (found, turned)


def read_back(node: fx.Node) -> Scaled | None:
    """The int8 numbers and the scales whose product a node is, behind casts."""
    product = behind_casts(node)
    factors = product.args if is_call(product, aten.mul.Tensor) else ()
    for one, other in (factors, factors[::-1]) if len(factors) == 2 else ():
        if isinstance(one, fx.Node) and isinstance(other, fx.Node):
            numbers = behind_casts(one)
            if value(numbers).dtype == torch.int8 and same_sizes(
                value(one).shape, value(node).shape
            ):
                return Scaled(numbers, other)
    return None


def behind_casts(node: fx.Node) -> fx.Node:
    """What is cast."""
    while is_call(node, aten._to_copy.default):
        node = first(node)
    return node


def of_int8(site: Site, given: dict[str, Any], weight: Scaled, turned: bool) -> None:
    """The product of the int8 numbers."""
    rows, kind = read_back(given["x"][0]), value(given["x"][0]).dtype
    refuse_unless(rows is not None, "its weight is int8, but its rows are no int8 with scales")
    assert rows is not None
    refuse_unless(kind in CODES, f"its result is {kind}, the operator's bfloat16 or float16")
    numbers = weight.numbers
    if turned:
        numbers = site.call(aten.permute.default, numbers, TURNED)
    results = site.npu(
        "npu_grouped_matmul",
        **{
            **given,
            "x": [rows.numbers],
            "weight": [numbers],
            "scale": [scales_of_columns(site, weight, turned, OF_COLUMNS[kind])],
            "per_token_scale": [scales_of_rows(site, rows)],
            "output_dtype": CODES[kind],
        },
    )
    site.node.replace_all_uses_with(results)


def scales_of_columns(site: Site, weight: Scaled, turned: bool, dtype: torch.dtype) -> fx.Node:
    """The scales [E, N] of a weight."""
    groups, one, other = value(weight.numbers).shape
    columns, wanted = (one, (groups, one, 1)) if turned else (other, (groups, 1, other))
    scales, held = behind_casts(weight.scales), value(weight.scales)
    refuse_unless(same_sizes(held.shape, wanted), "its weight has no scale of each column alone")
    wide = value(scales).dtype
    same = torch.promote_types(wide, dtype) == dtype
    refuse_unless(same, f"the scales of its columns are {wide}, which {dtype} would round")
    flat = site.call(aten.view.default, scales, [groups, columns])
    return flat if wide == dtype else site.call(aten._to_copy.default, flat, dtype=dtype)


def scales_of_rows(site: Site, rows: Scaled) -> fx.Node:
    """The float32 scales [M] of rows."""
    held = value(rows.scales)
    of_rows = held.dtype == torch.float32 and same_sizes(
        held.shape, (value(rows.numbers).shape[0], 1)
    )
    refuse_unless(of_rows, "its rows have no float32 scale each")
    source = first(rows.scales) if is_call(rows.scales, aten.unsqueeze.default) else None
    if source is not None and value(source).dim() == 1:
        return source
    return site.call(aten.view.default, rows.scales, [-1])
