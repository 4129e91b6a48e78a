"""A matmul and the collective beside it become one operator that overlaps the two.

    matmul, [pad], reduce_scatter   → npu_mm_reduce_scatter_base, npu_quant_mm_reduce_scatter
    all_gather, [unpad], matmul     → npu_all_gather_base_mm, npu_all_gather_quant_mm
    matmul, all_reduce              → npu_mm_all_reduce_base

Each is an identity: zero rows may be appended before a matmul instead of behind it, and padding may
be cut off its result instead of its input. Every limit of an operator is asked of `npu.legality`.
All ranks of a group fuse the same sites: one of them may have a bias that the operator takes no
part of, and a fused operator does not meet a plain collective.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import fx

from ascend_passes.agreement.require import refused_anywhere
from ascend_passes.cost import model as cost
from ascend_passes.cost import profiles
from ascend_passes.distributed.groups import Group, family_of, group_name, plain_collective, resolve
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused
from ascend_passes.ir.graph import Context, place, writes_possible
from ascend_passes.ir.traits import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER
from ascend_passes.options.value import switched_on
from ascend_passes.passes.flashcomm.build import Build
from ascend_passes.passes.matmul_collective.fusions import (
    Replaced,
    fuse_all_gather,
    fuse_all_reduce,
    fuse_reduce_scatter,
)
from ascend_passes.report.value import Decision, Miss, Report

NAME = "matmul_collective"
ALONE = "no matmul stands beside it"
Fuse = Callable[[Build, fx.Node, Group, Context], Replaced | None]
STEPS: Mapping[str, Fuse] = MappingProxyType(
    {
        REDUCE_SCATTER: fuse_reduce_scatter,
        ALL_GATHER: fuse_all_gather,
        ALL_REDUCE: fuse_all_reduce,
    }
)


@dataclass(frozen=True)
class CollectiveSite:
    """A collective, and the nodes that could replace it and its matmul."""

    node: fx.Node
    build: Build
    replaced: Replaced
    reason: str
    """Why this rank cannot fuse it; "" where it can."""


def matmul_collective(graph: fx.Graph, context: Context) -> Report:
    """Fuse matmuls with their collectives where the plan asks for it and the operators allow it."""
    return fuse_sites(graph, context, NAME, STEPS)


def fuse_sites(
    graph: fx.Graph, context: Context, name: str, steps: Mapping[str, Fuse], exact: bool = True
) -> Report:
    """Fuse the sites of a pass that all ranks can, in place.

    Args:
        graph: changed in place.
        context: its plan says whether anything is to be fused.
        name: the pass.
        steps: kind of collective -> what answers for one; others stay.
        exact: whether what is refused is left to nobody else.
    """
    if context.plan is None or not context.plan.matmul_collective:
        return Report()
    profile = profiles.read_profile(context.options.profile)
    numeric = cost.numbers(graph, context.plan.low)
    before = cost.estimate_nodes(graph.nodes, profile, numeric)
    sites = sites_by_group(graph, context, name, steps)
    mine = {group: [site.reason for site in members] for group, members in sites.items()}
    reasons = refused_anywhere(graph, name, mine)
    judged = [
        (site, reason)
        for group, members in sites.items()
        for site, reason in zip(members, reasons[group], strict=True)
    ]
    fused = [site for site, reason in judged if not reason]
    misses = tuple(
        Miss(name, site.node.name, place(site.node), reason, complete=exact)
        for site, reason in judged
        if reason and site.reason != ALONE
    )
    for site, reason in judged:
        if reason:
            site.build.discard()
    for site in fused:
        use_new_values(site)
    remove_dead(graph)
    if not fused:
        return Report(misses=misses)
    after = cost.estimate_nodes(graph.nodes, profile, numeric)
    told = f"{len(fused)} of {len(judged)} collectives overlap their matmul"
    reason = f"at {context.plan.low} tokens {told}"
    decision = Decision(name, "fused operators", reason, before.seconds, after.seconds)
    return Report(fired={name: len(fused)}, misses=misses, decisions=(decision,))


def sites_by_group(
    graph: fx.Graph, context: Context, name: str, steps: Mapping[str, Fuse]
) -> Mapping[Group, list[CollectiveSite]]:
    """Group -> its collectives in graph order, each with the nodes that would replace it.

    Those that this rank cannot fuse are among them: another rank might, and must know.
    """
    sites: dict[Group, list[CollectiveSite]] = defaultdict(list)
    for node in list(graph.nodes):
        kind = plain_collective(node)
        if kind not in steps or writes_possible(node.target):  # in place it does more than compute
            continue
        if not switched_on(f"{name}.{kind}", context.options.passes):
            continue
        group = resolve(group_name(node), family_of(node))
        if group is not None and node.users:
            sites[group].append(prepared(Build(graph, name), node, steps[kind], group, context))
    return sites


def prepared(
    build: Build, node: fx.Node, fuse: Fuse, group: Group, context: Context
) -> CollectiveSite:
    """A site with its nodes added, or with the reason why there are none."""
    try:
        replaced = fuse(build, node, group, context)
    except Refused as refusal:
        build.discard()
        return CollectiveSite(node, build, {}, str(refusal))
    return CollectiveSite(node, build, replaced or {}, "" if replaced else ALONE)


def use_new_values(site: CollectiveSite) -> None:
    """Give the readers of the old values the new ones."""
    for old, new in site.replaced.items():
        site.build.replace(old, new)
