"""Products that read the same rows become one `npu_grouped_matmul` with a list of weights.

Hugging Face's q, k and v, and gate and up, are products of their own with weights of their own. The
operator takes them as they lie: a list with the rows once for each weight, and a result for each,
so that no weight is copied and launches are saved, which a decode step of few rows spends most on.
Its documentation (aclnnGroupedMatmulV4) takes float16 and bfloat16 so, and int8 with stored scales
in the dtype that goes with the result's. W8A8 with dynamic rows stays, since a scale of each row is
for single tensors only, and so does a float bias, which beside bfloat16 would have to be float32.
That a list names one tensor several times it neither allows nor forbids, and no NPU has run it: the
pass is off unless `passes="+merge_products"` asks for it.

It acts on an NPU alone. On CUDA and on a CPU torch, Inductor or a kernel of ours runs each product
as its own; the reference does as well, and there is no launch to be saved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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
from ascend_passes.npu.grouped_matmul_limits import APART, RESULT_EACH
from ascend_passes.options.value import switched_on
from ascend_passes.report.value import Decision, Miss, Report

aten = torch.ops.aten
RULE = "merge_products"
LEAST_GAIN = 0.05
"""Share of the products' estimated time that the saved launches must be. What one kernel loses to
each product's own tiling is not known, so that where products are long they stay."""
PRODUCTS = (aten.mm.default, aten.addmm.default, torch.ops.npu.npu_quant_matmul.default)
BIASED = "they have biases; beside bfloat16 the operator takes float32 ones only"
SCALED_ROWS = "they are W8A8; the operator takes scales of rows for single tensors only"
LISTED = ("scale", "bias")
"""Arguments of a W8A8 product of which the operator takes a list."""
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
        if node.target not in PRODUCTS:
            continue
        rows, right, others = factors_of(node)
        if owner_of(right).op in ("placeholder", "get_attr"):
            way = (node.target, is_turned(right), frozenset(others), others.get("output_dtype"))
            found[rows, way].append(node)
    return [products for products in found.values() if len(products) > 1]


def factors_of(product: fx.Node) -> tuple[fx.Node, fx.Node, dict[str, Any]]:
    """A product's rows, its weight, and its other arguments by name."""
    matmul = traits_of(product.target).matmul
    assert matmul is not None
    given = {name: one for name, one in named_arguments(product).items() if one is not None}
    return given.pop(matmul.left), given.pop(matmul.right), given


def is_turned(right: fx.Node) -> bool:
    """Whether a factor is the transpose of what lies in memory."""
    return is_call(right, aten.permute.default)


def owner_of(right: fx.Node) -> fx.Node:
    """What lies in memory: a product's factor, or what that is the transpose of."""
    return first(right) if is_turned(right) else right


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
    rows, rights, others = zip(*map(factors_of, products), strict=True)
    lists = {name: [one[name] for one in others] for name in LISTED if name in others[0]}
    require_alike(begin, end, rows[0], rights, [one for listed in lists.values() for one in listed])
    site = Site(begin, context.options.soc, RULE)
    given: dict[str, Any] = {"x": list(rows), "split_item": RESULT_EACH, "group_type": APART}
    given["weight"] = [one if one < begin else turned_again(site, one) for one in rights]
    if "output_dtype" in others[0]:
        given["output_dtype"] = others[0]["output_dtype"]
    call = site.npu("npu_grouped_matmul", **given, **lists)
    for index, node in enumerate(products):
        node.replace_all_uses_with(site.item(call, index))


def require_alike(
    begin: fx.Node, end: fx.Node, rows: fx.Node, rights: Siblings, kept: Siblings
) -> None:
    """Check that what products read is at the first of them what it is at the last.

    Raises:
        Refused: it is not.
    """
    early = all(one < begin for one in (*map(owner_of, rights), *kept))
    refuse_unless(early, "a weight or its scale is read behind the first product")
    apart = written_between(begin, end, [rows, *rights, *kept]) or boundary_between(begin, end)
    refuse_unless(not apart, "something is written, or a stream ends, between them")


def reason_to_stay(product: fx.Node) -> str:
    """Why no list takes a product; "" where one may."""
    if product.target is aten.addmm.default:
        return BIASED
    _, _, others = factors_of(product)
    return SCALED_ROWS if "pertoken_scale" in others else ""


def turned_again(site: Site, right: fx.Node) -> fx.Node:
    """The transpose of a parameter, in front of the first product."""
    return site.call(aten.permute.default, *right.args)
