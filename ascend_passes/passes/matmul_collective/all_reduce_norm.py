"""Matmul, all_reduce, residual add and RMSNorm become vllm-ascend's one operator.

    matmul, all_reduce, npu_add_rms_norm    → matmul_allreduce_add_rmsnorm

It runs in front of `matmul_collective`, which makes `npu_mm_all_reduce_base` of what is refused
here, and as that where option `matmul_all_reduce` asks for it: FlashComm leaves no all_reduce where
it acts. The operator is there where vllm-ascend is loaded. vllm-ascend 0.23 asks for the sum's own
rows of each rank only, which is right where every norm behind it is fused as well; here each site
is right alone: the sum is gathered where anybody reads it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from ascend_passes import npu
from ascend_passes.distributed.groups import VLLM, Group, communicator, family_of
from ascend_passes.engine.site import Refused, refuse_unless
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.graph import Context, is_call, operator_name, same_sizes, value
from ascend_passes.ir.moving import boundary_between, written_between
from ascend_passes.ir.proof import prove
from ascend_passes.ir.traits import ALL_REDUCE, traits_of
from ascend_passes.npu.matmul_all_reduce_norm import OPERATOR, WINDOW_BYTES, fits_window
from ascend_passes.passes.flashcomm.build import Build
from ascend_passes.passes.flashcomm.product import VIEWS, Product, matrix, read_product, upwards
from ascend_passes.passes.matmul_collective.fusions import Replaced, legal_results
from ascend_passes.passes.matmul_collective.matmul_collective import fuse_sites
from ascend_passes.passes.matmul_collective.views import awaited
from ascend_passes.report.value import Report

aten = torch.ops.aten
NAME = "matmul_all_reduce_norm"
FEWEST_TOKENS = 512
"""vllm-ascend 0.23 fuses ranges of tokens that begin above it, the rows of one exchange of the
kernel (`ALLREDUCE_NORM_FUSE_THRESHOLD`)."""
CHUNK = "vllm::maybe_chunk_residual"
"""Of vllm-ascend: the residual's rows that belong to the first argument's."""
NORMED, STATISTICS, SUM = 0, 1, 2
"""The results of `npu_add_rms_norm`."""


def fuse_norms(graph: fx.Graph, context: Context) -> Report:
    """Fuse matmuls with the all_reduce and the norm behind them, in place, where all ranks can."""
    steps = MappingProxyType({ALL_REDUCE: fuse_all_reduce_norm})
    return fuse_sites(graph, context, NAME, steps, exact=False)


def fuse_all_reduce_norm(
    build: Build, node: fx.Node, group: Group, context: Context
) -> Replaced | None:
    """matmul, [view], all_reduce, npu_add_rms_norm; None and errors as in `fusions`."""
    if node.args[1] != "sum" and family_of(node) != VLLM:
        return None
    chain, total = list(upwards(node.args[0], VIEWS)), awaited(node)
    product, norm = read_product(chain[-1]), norm_behind(total)
    if product is None or norm is None:
        return None
    require_operator(context)
    require_alone(chain, node, norm)
    refuse_unless(product.bias is None, "the product has a bias, which the operator does not take")
    require_row_count(product, context)
    results = results_of(norm)
    refuse_unless(STATISTICS not in results, "the norm's statistics are read")
    given, weight = npu.complete("npu_add_rms_norm", named_arguments(norm)), stored_weight(product)
    residual = whole_residual(given["x2"] if given["x1"] is total else given["x1"], total)
    read = (product.left, weight)
    apart = written_between(product.node, norm, read) or boundary_between(product.node, norm)
    refuse_unless(not apart, "something is written, or a stream ends, between matmul and norm")
    with build.behind(norm):
        arguments: dict[str, Any] = {
            "x1": product.left,
            "x2": weight,
            "residual": matrix(build, residual),
            "gamma": given["gamma"],
            "groupTp": communicator(group, context.device),
            "tpRankSize": group.size,
            "tpRankId": group.rank,
            "epsilon": given["epsilon"],
            "isTransB": True,
            "isGatherAddOut": SUM in results,
        }
        y, summed = legal_results(build, OPERATOR.name, arguments, context)
        new = {NORMED: y, SUM: summed}
        return {old: shaped(build, new[index], old, chain) for index, old in results.items()}


def norm_behind(total: fx.Node) -> fx.Node | None:
    """The norm that reads a sum over ranks as one of what it adds."""
    target = torch.ops.npu.npu_add_rms_norm.default
    return next((user for user in total.users if is_call(user, target)), None)


def results_of(norm: fx.Node) -> dict[int, fx.Node]:
    """Index -> the node of a result that is read."""
    return {int(user.args[1]): user for user in norm.users if user.users}  # type: ignore[arg-type]


def require_operator(context: Context) -> None:
    """Check that the operator is there, and make known what it is.

    Raises:
        Refused: vllm-ascend's library is not loaded, or who compiles has no form of it.
    """
    there = hasattr(torch.ops._C_ascend, OPERATOR.name)
    refuse_unless(there, f"vllm-ascend's library, which has {OPERATOR.name}, is not loaded")
    refuse_unless(context.options.executor != "torchair", "torchair has no converter for it")
    npu.register_operators(OPERATOR)


def require_alone(chain: list[fx.Node], node: fx.Node, norm: fx.Node) -> None:
    """Check that the product serves the sum alone, and the sum the norm.

    Raises:
        Refused: somebody else reads one of them.
    """
    total = awaited(node)
    inside = chain if total is node else [*chain, node]
    read = all(len(link.users) <= 1 for link in inside)
    refuse_unless(read, "the product is also read before the sum")
    cuts = [user for user in total.users if operator_name(user) == CHUNK]
    asked = [cut for cut in cuts if [*cut.users] == [norm]]
    alone = set(total.users) == {norm, *asked}
    refuse_unless(alone, "the sum over ranks is read without the residual as well")


def whole_residual(residual: fx.Node, total: fx.Node) -> fx.Node:
    """The residual in front of vllm-ascend's operator that cuts it into rows of the ranks where the
    sum was: it gives a residual of as many rows as it is.

    Raises:
        Refused: layers keep their weights, as under vllm-ascend's own FlashComm, which decides at
            each step.
    """
    if operator_name(residual) != CHUNK or residual.args[0] is not total:
        return residual
    source = residual.args[1]
    assert isinstance(source, fx.Node)
    kept = any(traits_of(node.target).hides_weight for node in residual.graph.nodes)
    whole = same_sizes(value(source).shape, value(total).shape) and not kept
    refuse_unless(whole, "vllm-ascend may cut the residual into rows of the ranks")
    return source


def require_row_count(product: Product, context: Context) -> None:
    """Check that there are rows enough, and room for all.

    Raises:
        Refused: there are too few of them, or it is not known how many there may be.
    """
    plan = context.plan
    assert plan is not None
    many = plan.low > FEWEST_TOKENS
    refuse_unless(many, f"vllm-ascend fuses above {FEWEST_TOKENS} tokens; here are {plan.low}")
    rows, columns = value(product.left).shape[0], value(product.node).shape[-1]
    known = prove(rows * columns * 2 <= WINDOW_BYTES) or fits_window(plan.high, columns)
    refuse_unless(
        known, f"rows of up to {plan.high} tokens do not provably fit a window of {WINDOW_BYTES} B"
    )


def stored_weight(product: Product) -> fx.Node:
    """The weight as it lies, `[N, K]`.

    Raises:
        Refused: it lies as `[K, N]`.
    """
    right = product.right
    if is_call(right, aten.permute.default) and list(right.args[1]) == [1, 0]:  # type: ignore[arg-type]
        return right.args[0]  # type: ignore[return-value]
    raise Refused(f"the weight of {operator_name(product.node)} lies as [K, N]")


def shaped(build: Build, result: fx.Node, old: fx.Node, chain: list[fx.Node]) -> fx.Node:
    """A result in the shape that it had; errors as in `stored_weight` where that is not told."""
    if value(old).dim() == value(result).dim():
        return result
    views = [link for link in chain if operator_name(link) in VIEWS]
    refuse_unless(len(views) == 1, "the product is viewed more than once before the sum")
    return build.known(value(old), aten.reshape.default, result, views[0].args[1])
