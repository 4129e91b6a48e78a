"""Layers of experts, as transformers spells them, in NPU operators: the choice of experts, the rows
in their order, the products, and the weighted sum.

Each of the four is right where none of the others was found. What is not found as a whole is no
candidate; a candidate that an operator may not take is a miss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch import fx

from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site, refuse_unless
from ascend_passes.frontends.expert_rows import (
    expansion,
    sorted_slots,
    weighted_sum,
    weighted_sums,
)
from ascend_passes.frontends.expert_slots import (
    counts_of_routing,
    refuse_written,
    rows_of_groups,
    stand_in,
)
from ascend_passes.frontends.vllm_operators import erase_between, wrapped_name
from ascend_passes.ir.arguments import arguments, named_arguments
from ascend_passes.ir.graph import (
    Context,
    first,
    is_call,
    operator_name,
    place,
    plain_size,
    same_size,
    value,
)
from ascend_passes.options.value import switched_on
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten
Step = tuple[Callable[[fx.Graph], Iterator[fx.Node]], Callable[[Site], None]]
GROUPED = {
    "aten::_grouped_mm": ("self", "mat2", "offs"),
    "transformers::grouped_mm_fallback": ("input", "weight", "offs"),
}
"""Grouped product -> the names of its rows, weights and offsets."""
MOST_EXPERTS = 1024
"""More than any model has; a softmax over more is a sampler's, over words."""
WHOLE = ("vllm::moe_forward", "vllm::moe_forward_shared", "_C::cpu_fused_moe")
"""Operators of vLLM's that are the experts of a layer, all but the last with their choice."""
ONE_RESULT, OVER_ROWS = 3, 0
"""split_item and group_type of `npu_grouped_matmul`: groups of rows of one result."""
ENDS, COUNTS = 0, 1
"""group_list_type: where the groups end, or how many rows each has."""


def experts(graph: fx.Graph, context: Context) -> Report:
    """Translate layers of experts in place; `fired` counts the operators, `kept` vLLM's."""
    fired: dict[str, int] = {}
    misses: list[Miss] = []
    for name, (candidates, translate) in STEPS.items():
        if not switched_on(f"experts.{name}", context.options.passes):
            continue
        for node in list(candidates(graph)):
            last = node.prev
            try:
                translate(Site(node, context.options.soc, "experts"))
                fired[name] = fired.get(name, 0) + 1
            except Refused as refusal:
                erase_between(last, node)
                misses.append(Miss(name, node.name, place(node), str(refusal), complete=True))
        remove_dead(graph)
    calls = Counter(map(wrapped_name, graph.nodes))
    kept = {name: calls[name] for name in WHOLE if calls[name]}
    return Report(fired=fired, misses=tuple(misses), kept=kept)


def choices_of_softmax(graph: fx.Graph) -> Iterator[fx.Node]:
    """The largest values of a softmax over the same, last dim."""
    for node in graph.find_nodes(op="call_function", target=aten.topk.default):
        scores, _, dim, largest, _ = arguments(node)
        over = arguments(scores)[1] if is_call(scores, aten._softmax.default) else None
        few = value(scores).dim() and plain_size(value(scores).shape[-1]) in range(MOST_EXPERTS + 1)
        if largest and few and over == dim == value(scores).dim() - 1:
            yield node


def choice(site: Site) -> None:
    """A softmax and its largest values become one operator, which gives experts in int32.

    Of a half precision the softmax rounds what is then compared, so that other experts may win.
    """
    scores, k, *_ = arguments(site.node)
    dtype = value(scores).dtype
    refuse_unless(dtype == torch.float32, f"experts are chosen by scores that {dtype} rounds")
    logits = first(scores)
    refuse_written(scores, site.node, scores, logits)
    if value(logits).dtype != dtype:
        logits = site.call(aten._to_copy.default, logits, dtype=dtype)
    chosen = site.npu("npu_moe_gating_top_k_softmax", x=logits, finished=None, k=k)
    wide = site.call(aten._to_copy.default, site.item(chosen, 1), dtype=torch.int64)
    results = site.item(chosen, 0), wide
    for reader in list(site.node.users):
        stand_in(reader, results[int(reader.args[1])])  # type: ignore[arg-type]


def grouped_products(graph: fx.Graph) -> Iterator[fx.Node]:
    """Calls of torch's and of transformers' grouped products, of rows and not of columns."""
    for node in graph.nodes:
        if operator_name(node) not in GROUPED:
            continue
        rows, weights, offsets = grouped_factors(node)
        grouped = offsets is not None and value(rows).dim() == 2 and value(weights).dim() == 3
        if grouped:
            yield node


def grouped_factors(node: fx.Node) -> tuple[fx.Node, ...]:
    """The rows, the weights and the offsets of a grouped product."""
    given = named_arguments(node)
    return tuple(given.get(name) for name in GROUPED[operator_name(node)])  # type: ignore[misc]


def product_of_groups(site: Site) -> None:
    """A grouped product becomes the NPU's, whose groups must be all of the rows."""
    given = named_arguments(site.node)
    for name in ("bias", "out_dtype"):
        refuse_unless(given.get(name) is None, f"{name} is given")
    rows, weights, offsets = grouped_factors(site.node)
    counted, held = rows_of_groups(offsets), value(rows).shape[0]
    refuse_unless(same_size(counted, held), f"its groups are {counted} of {held} rows")
    groups, kind = group_list_of(site, offsets)
    results = site.npu(
        "npu_grouped_matmul",
        x=[rows],
        weight=[weights],
        group_list=groups,
        split_item=ONE_RESULT,
        group_type=OVER_ROWS,
        group_list_type=kind,
    )
    stand_in(site.node, site.item(results, 0))


def group_list_of(site: Site, offsets: fx.Node) -> tuple[fx.Node, int]:
    """What the operator takes as groups, and its kind: counts where the routing has them, of which
    one alone is not taken."""
    counts = counts_of_routing(offsets)
    if counts is not None and value(offsets).shape[0] > 1:
        return counts, COUNTS
    return site.call(aten._to_copy.default, offsets, dtype=torch.int64), ENDS


STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "gating_top_k_softmax": (choices_of_softmax, choice),
        # In front of `init_routing`: that gives the inverse where nothing else needs the order.
        "finalize_routing": (weighted_sums, weighted_sum),
        "init_routing": (sorted_slots, expansion),
        "grouped_matmul": (grouped_products, product_of_groups),
    }
)
"""What is counted -> its candidates, and what translates one."""
