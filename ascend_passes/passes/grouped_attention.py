"""Attention of a decode step reads the key and value heads where they lie.

Where several query heads share a key head, Hugging Face repeats the keys and values for attention:
unsqueeze, expand, clone, view. In a decode step that copies the whole KV cache, once per layer and
for every query head. A query of one token needs no copy on any device: the G query heads of a
group are G rows that read the same keys, so [B, G * heads, 1, D] is attention of [B, heads, G, D].
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site
from ascend_passes.ir.arguments import named_arguments, schema_order
from ascend_passes.ir.graph import (
    Context,
    first,
    is_call,
    operator_name,
    place,
    same_size,
    same_sizes,
    same_strides,
    value,
)
from ascend_passes.ir.moving import written_between
from ascend_passes.ir.trace import fake_mode_of, faking
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten
RULE = "grouped_attention"
ATTENTION = (
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
)
"""What `scaled_dot_product_attention` becomes on a CPU, on CUDA and on other accelerators; all take
a query [B, heads, S, D] and give their result first."""
MASKS = ("attn_mask", "attn_bias")


@dataclass(frozen=True)
class Repeat:
    """Heads that are repeated for attention."""

    source: fx.Node
    """[B, heads, L, D]."""
    clone: fx.Node
    """The copy, [B, heads, times, L, D]."""
    times: int


def grouped_attention(graph: fx.Graph, context: Context) -> Report:
    """Rewrite attention of one query token over repeated heads, in place.

    The result agrees with the repeated one up to the order of the kernel's sums. What keeps a copy
    is a miss, prompts included: theirs is paid once, and a mask for each group would cost as much.
    """
    fired = 0
    misses: list[Miss] = []
    for node in [n for n in graph.nodes if operator_name(n) in ATTENTION]:
        given = named_arguments(node)
        keys, values = repeat(given["key"]), repeat(given["value"])
        if keys is None and values is None:
            continue
        try:
            regroup(Site(node, context.options.soc, RULE), given, keys, values)
        except Refused as refused:
            misses.append(Miss(RULE, node.name, place(node), str(refused)))
        else:
            fired += 1
    remove_dead(graph)
    return Report(fired={RULE: fired} if fired else {}, misses=tuple(misses))


def repeat(node: fx.Node) -> Repeat | None:
    """The heads behind an attention's key or value, where they are repeated."""
    if not is_call(node, aten.view.default, aten._unsafe_view.default):
        return None
    clone = first(node)
    if not is_call(clone, aten.clone.default) or not is_call(first(clone), aten.expand.default):
        return None
    single = first(first(clone))
    if not is_call(single, aten.unsqueeze.default) or single.args[1] not in (2, -3):
        return None
    source, times = first(single), value(clone).shape[2]
    batch, heads, *rest = value(source).shape
    if len(rest) != 2 or not isinstance(times, int) or times < 2:
        return None
    joined = same_sizes(value(node).shape, (batch, heads * times, *rest))
    if not joined or not same_sizes(value(clone).shape, (batch, heads, times, *rest)):
        return None
    return Repeat(source, clone, times)


def regroup(site: Site, given: dict[str, Any], keys: Repeat | None, values: Repeat | None) -> None:
    """Exchange an attention for the one that reads `keys` and `values` unrepeated.

    Raises:
        Refused: the exchange is not provably right, or would need another copy of that size.
    """
    if keys is None or values is None:
        raise Refused("only the keys or only the values are repeated")
    node, call = site.node, site.call
    require_one_row(node, given, keys, values)
    heads, times = value(keys.source).shape[1], keys.times
    size = value(given["query"]).shape[3]

    def shaped(source: fx.Node, *shape: Any) -> fx.Node:
        if not has_view(source, fx.map_arg(shape, value)):
            source = call(aten.clone.default, source, memory_format=torch.contiguous_format)
        return call(aten.view.default, source, list(shape))

    def size_of(source: fx.Node, dim: int) -> Any:
        known = value(source).shape[dim]
        return known if isinstance(known, int) else call(aten.sym_size.int, source, dim)

    batch, length = size_of(keys.source, 0), size_of(keys.source, 2)
    given |= {"key": keys.source, "value": values.source}
    given["query"] = shaped(given["query"], batch, heads, times, size)
    for name in MASKS:
        if given.get(name) is not None:
            mask = value(given[name])
            if mask.dim() > 2 and mask.shape[-3] != 1:
                sizes = [size_of(given[name], dim) for dim in range(mask.dim())]
                given[name] = shaped(given[name], *sizes[:-3], heads, times, sizes[-1])
            # Rows and heads share a mask without memory of their own.
            given[name] = call(aten.expand.default, given[name], [batch, heads, times, length])
    args, kwargs = schema_order(node.target, given)  # type: ignore[arg-type]
    new = call(node.target, *args, **kwargs)
    result = site.item(new, 0)
    result = shaped(result, batch, heads * times, 1, value(result).shape[-1])
    (old,) = node.users
    if not same_strides(value(old), value(result)):
        raise Refused("later readers rely on the layout that the kernel gives its result")
    old.replace_all_uses_with(result)
    for gone in (old, node):
        node.graph.erase_node(gone)


def require_one_row(node: fx.Node, given: dict[str, Any], keys: Repeat, values: Repeat) -> None:
    """Check what makes the exchange right; errors as in `regroup`."""
    _, *numbers = value(given["query"]).shape
    if not all(isinstance(number, int) for number in numbers):
        raise Refused("the query's heads, tokens or head size are symbolic")
    if numbers[1] != 1:
        raise Refused(f"the query has {numbers[1]} tokens, and only one token shares its mask")
    if keys.times != values.times:
        raise Refused(f"keys are repeated {keys.times} times but values {values.times} times")
    if given.get("is_causal") or given.get("dropout_p"):
        raise Refused("a causal mask or dropout depends on the row of the query")
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
        raise Refused("more than the result of the attention is read")
    if len(node.users) != 1:
        raise Refused("the result is read more than once")
    for repeated in (keys, values):
        if not same_size(value(repeated.source).stride()[-1], 1):
            # The copy was dense; the kernels take that of the last dim for granted.
            raise Refused("the elements of a head do not lie side by side")
        if written_between(repeated.clone, node, [repeated.source]):
            raise Refused("the heads are written between their copy and the attention")


def has_view(source: fx.Node, shape: tuple[Any, ...]) -> bool:
    """Whether a tensor can take a shape without a copy."""
    fake: Tensor = value(source)
    with faking(fake_mode_of([fake])):
        try:
            fake.view(shape)
        except (RuntimeError, ValueError):
            return False
    return True
