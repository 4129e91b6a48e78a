"""Products that read the same rows become one `npu_grouped_matmul` with a list of weights.

Hugging Face's q, k and v, and gate and up, are products of their own with weights of their own. The
operator takes them as they lie: a list with the rows once for each weight, and a result for each,
so that no weight is copied and launches are saved, which a decode step of few rows spends most on.
Its documentation takes float16 and bfloat16 so. W8A8 with dynamic rows stays, since a scale of each
row is for single tensors only (`perTokenScaleOptional` of aclnnGroupedMatmulV4); with stored scales
it stays since lists of scales have no reference here, and so does a bias, which beside bfloat16
would have to be float32. That a list names one tensor several times it neither allows nor forbids,
and no NPU has run it: the pass is off unless `passes="+merge_products"` asks for it.

It acts on an NPU alone. On CUDA and on a CPU torch, Inductor or a kernel of ours runs each product
as its own; the reference does as well, and there is no launch to be saved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from ascend_passes.cost import model as cost
from ascend_passes.cost import profiles
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site, refuse_unless
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.graph import Context, first, is_call, place
from ascend_passes.ir.moving import boundary_between, written_between
from ascend_passes.ir.traits import traits_of
from ascend_passes.npu.grouped_matmul_limits import APART
from ascend_passes.options.value import switched_on
from ascend_passes.report.value import Decision, Miss, Report

aten = torch.ops.aten
RULE = "merge_products"
LEAST_GAIN = 0.05
"""Share of the products' estimated time that the saved launches must be. What one kernel loses to
each product's own tiling is not known, so that where products are long they stay."""
STAY: Mapping[Any, str] = {
    aten.addmm.default: "they have biases; beside bfloat16 the operator takes float32 ones only",
    torch.ops.npu.npu_quant_matmul.default: "they are W8A8, and lists with stored scales have no "
    "reference here",
}
"""Products that no list takes, each with the reason."""
SCALED_ROWS = "they are W8A8; the operator takes scales of rows for single tensors only"
Siblings = Sequence[fx.Node]


def merge_products(graph: fx.Graph, context: Context) -> Report:
    """Merge products of the same rows, in place."""
    if not switched_on(RULE, context.options.passes, False):
        return Report()
    if context.device != "npu":
        return Report(notes=(f"{RULE} acts on an NPU: on {context.device} it saves no launch",))
    profile = profiles.read_profile(context.options.profile)
    numeric = cost.numbers(graph, context.plan.low if context.plan is not None else None)
    before, after, fired, misses = 0.0, 0.0, 0, []
    for products in siblings(graph):
        try:
            seconds = cost.estimate_nodes(products, profile, numeric).seconds
            saved = (len(products) - 1) * profile.matmul_launch
            require_gain(saved, seconds)
            merge(products, context)
        except Refused as refused:
            node = products[0]
            misses.append(Miss(RULE, node.name, place(node), str(refused)))
        else:
            before, after, fired = before + seconds, after + seconds - saved, fired + 1
    remove_dead(graph)
    if not fired:
        return Report(misses=tuple(misses))
    reason = f"{fired} groups of products that read the same rows"
    decision = Decision(RULE, "one operator each", reason, before, after)
    return Report(fired={RULE: fired}, misses=tuple(misses), decisions=(decision,))


def siblings(graph: fx.Graph) -> list[list[fx.Node]]:
    """Products by parameters that read the same rows in the same way, two and more, in the order of
    the graph."""
    found: dict[Any, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.target is not aten.mm.default and node.target not in STAY:
            continue
        matmul = traits_of(node.target).matmul
        assert matmul is not None
        given = named_arguments(node)
        right = given[matmul.right]
        if parameter(right) is not None:
            found[given[matmul.left], node.target, is_turned(right)].append(node)
    return [products for products in found.values() if len(products) > 1]


def is_turned(right: fx.Node) -> bool:
    """Whether a factor is the transpose of what lies in memory."""
    return is_call(right, aten.permute.default)


def parameter(right: fx.Node) -> fx.Node | None:
    """The parameter that is a product's factor, or its transpose; None for a computed one."""
    owner = first(right) if is_turned(right) else right
    return owner if owner.op in ("placeholder", "get_attr") else None


def require_gain(saved: float, seconds: float) -> None:
    """Check that the launches are a share of the products' time.

    Raises:
        Refused: they are too little of it.
    """
    share = saved / seconds if seconds else 0.0
    refuse_unless(
        share >= LEAST_GAIN,
        f"launches are {share:.1%} of what they take, below {LEAST_GAIN:.0%}: each is long itself",
    )


def merge(products: Siblings, context: Context) -> None:
    """Put one call in the place of all, where the first of them stands.

    Raises:
        Refused: a limit of the operator, or what they read is not the same at each of them.
    """
    begin, end = products[0], products[-1]
    why = reason_to_stay(begin)
    refuse_unless(not why, why)
    rows, rights = first(begin), [named_arguments(node)["mat2"] for node in products]
    owners = [parameter(right) for right in rights]
    early = all(owner is not None and owner < begin for owner in owners)
    refuse_unless(early, "a weight is read behind the first product")
    apart = written_between(begin, end, [rows, *rights]) or boundary_between(begin, end)
    refuse_unless(not apart, "something is written, or a stream ends, between them")
    site = Site(begin, context.options.soc, RULE)
    weights = [right if right < begin else turned_again(site, right) for right in rights]
    many = [rows] * len(products)
    call = site.npu("npu_grouped_matmul", x=many, weight=weights, split_item=0, group_type=APART)
    for index, node in enumerate(products):
        node.replace_all_uses_with(site.item(call, index))


def reason_to_stay(product: fx.Node) -> str:
    """Why no list takes a product; "" where one may."""
    if named_arguments(product).get("pertoken_scale") is not None:
        return SCALED_ROWS
    return STAY.get(product.target, "")


def turned_again(site: Site, right: fx.Node) -> fx.Node:
    """The transpose of a parameter, in front of the first product."""
    return site.call(aten.permute.default, *right.args)
