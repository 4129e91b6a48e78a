"""FlashComm: all_reduce becomes reduce_scatter and all_gather, and the gather sinks to its readers.

The rewriting is a chain of identities, each exact on its own:

    all_reduce(x)         = unpad(all_gather(reduce_scatter(pad(x))))
    f(all_gather(a), w)   = all_gather(f(a, w))           f works row by row
    f(all_gather(a), r)   = all_gather(f(a, chunk(r)))    r whole on every rank
    chunk(all_gather(a))  = a

`sinkable` finds the values that a rank can compute for its rows alone, `needed_whole` where all
rows are needed and gathered cheapest, `built` adds the nodes, and the cost model decides whether
they stay.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from ascend_passes import cost, profiles
from ascend_passes.cost import Estimate
from ascend_passes.graph import Context, has_effect, operator_name, place, same_size, value
from ascend_passes.groups import Group, family_of, group_name, resolve
from ascend_passes.normalize import remove_dead
from ascend_passes.options import switched_on
from ascend_passes.passes.row_operators import LocalCall, RowsOf, local_call
from ascend_passes.passes.sharded_rows import (
    Build,
    Rows,
    gather,
    local_node,
    operator_is_wait,
    prepare_sizes,
    scatter,
    source_input,
)
from ascend_passes.plan import Plan
from ascend_passes.profiles import Profile
from ascend_passes.report import Decision, Miss, Report

NAME = "sequence_parallel"
ALL_REDUCES = frozenset(
    {"_c10d_functional::all_reduce", "_c10d_functional::all_reduce_", "vllm::all_reduce"}
)


@dataclass(frozen=True)
class Shard:
    """A value that each rank can compute for its own rows."""

    rows: Rows
    lead: int
    """Leading dimensions of the value that are rows."""
    call: LocalCall | None = None
    """How its rows are computed; None for an all_reduce, whose rows a reduce_scatter gives."""


@dataclass
class Findings:
    """What `sinkable` found, in graph order."""

    shards: dict[fx.Node, Shard] = field(default_factory=dict)
    misses: list[Miss] = field(default_factory=list)
    streams: list[Rows] = field(default_factory=list)


def sequence_parallel(graph: fx.Graph, context: Context) -> Report:
    """Compute additions, norms and quantizations on T / tp rows where that should be faster."""
    if context.plan is None or not context.plan.flashcomm:
        return Report()
    found = sinkable(graph, context)
    if not found.shards:
        return Report(misses=tuple(found.misses))
    profile = profiles.read(context.options.profile)
    numeric = cost.numbers(graph, context.plan.low)
    whole = needed_whole(found.shards, profile, numeric, on(context, "gather_early"))
    build = built(graph, found, whole, on(context, "cancel_chunk"))
    if not build.local:  # every all_reduce is read whole at once
        return Report(misses=tuple(found.misses))
    old = [node for node in graph.nodes if node not in build.made]
    before = cost.estimate_nodes(old, profile, numeric)
    after = cost.estimate_nodes(live(graph, build.gathered), profile, numeric)
    if after.seconds >= before.seconds and on(context, "cost"):
        build.discard()
        return Report(misses=tuple(found.misses), decisions=(kept(before, after, context.plan),))
    for node, gathered in build.gathered.items():
        node.replace_all_uses_with(gathered, delete_user_cb=lambda user: user not in build.made)
    remove_dead(graph)
    sources = [node for node in build.local if found.shards[node].call is None]
    return Report(
        fired={NAME: len(sources)},
        misses=tuple(found.misses),
        decisions=(taken(before, after, context.plan),),
        notes=(gathers(build),),
    )


def on(context: Context, identity: str) -> bool:
    """Whether one identity may be used: `-sequence_parallel.sink_norm` switches it off."""
    return switched_on(f"{NAME}.{identity}", context.options.passes)


def sinkable(graph: fx.Graph, context: Context) -> Findings:
    """Every value that a rank can compute for its rows alone, from the all_reduces downwards."""
    found = Findings()
    lead_of = lambda node: found.shards[node].lead if node in found.shards else 0  # noqa: E731
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if is_source(node):
            start_stream(node, found)
            continue
        owners = [found.shards[n] for n in node.all_input_nodes if n in found.shards]
        if not owners:
            continue
        if not operator_name(node):
            take_output(node, found)
            continue
        answer = local_call(node, lead_of)
        if answer is None:
            continue
        reason = answer if isinstance(answer, str) else refused(node, answer, found, context)
        if reason:
            found.misses.append(Miss(NAME, node.name, place(node), reason))
        elif isinstance(answer, LocalCall):
            found.shards[node] = Shard(owners[0].rows, answer.lead, answer)
    return found


def is_source(node: fx.Node) -> bool:
    """Whether a node gives the result of an all_reduce: the call itself, or the one wait for it."""
    if operator_is_wait(node):
        started = node.args[0]
        return isinstance(started, fx.Node) and operator_name(started) in ALL_REDUCES
    return operator_name(node) == "vllm::all_reduce"


def start_stream(node: fx.Node, found: Findings) -> None:
    """Enter an all_reduce as a shard if its rows can be dealt out, else say why not."""
    call = node.args[0] if operator_is_wait(node) else node
    assert isinstance(call, fx.Node)
    group = resolve(group_name(call), family_of(call))
    reason = unfit(call, group)
    if reason or group is None:
        found.misses.append(Miss(NAME, node.name, place(node), reason))
        return
    shape = value(node).shape
    dimensions = tuple(shape[:-1])
    rows = next((r for r in found.streams if r.same(group, Rows(group, dimensions).count)), None)
    if rows is None:
        rows = Rows(group, dimensions)
        found.streams.append(rows)
    if not rows.holds(dimensions):
        reason = f"its row dimensions {list(dimensions)} are not known from the first all_reduce"
        found.misses.append(Miss(NAME, node.name, place(node), reason))
        return
    found.shards[node] = Shard(rows, len(dimensions))


def unfit(call: fx.Node, group: Group | None) -> str:
    """Why an all_reduce cannot become a reduce_scatter and an all_gather; "" where it can."""
    name, result = operator_name(call), value(call)
    if group is None:
        return f"the group {group_name(call)!r} is not known to this process"
    if group.size < 2:
        return "the group has one rank"
    if name.startswith("_c10d_functional") and call.args[1] != "sum":
        return f"the all_reduce computes {call.args[1]!r}, and only sums are dealt out in rows"
    if name == "_c10d_functional::all_reduce_" and len(source_input(call).users) > 1:
        return "the all_reduce writes a value that others read as well"
    if not isinstance(result, Tensor) or result.dim() < 2:
        return "the reduced value has no rows"
    if same_size(Rows(group, tuple(result.shape[:-1])).count, 1):
        return "there is one row only"
    if name != "vllm::all_reduce" and not all(map(operator_is_wait, call.users)):
        return "the all_reduce is read before it is waited for"
    return ""


def take_output(node: fx.Node, found: Findings) -> None:
    """`getitem` of an operator with several outputs, each of which has rows."""
    source = node.args[0]
    shard = found.shards.get(source) if isinstance(source, fx.Node) else None
    if shard is None or node.target is not operator.getitem:
        return
    assert isinstance(source, fx.Node)
    args = (RowsOf(source, shard.lead), node.args[1])
    call = LocalCall("sink_view", node.target, args, {}, shard.lead, moves_data=False)
    found.shards[node] = Shard(shard.rows, shard.lead, call)


def refused(node: fx.Node, call: LocalCall, found: Findings, context: Context) -> str:
    """Why a row-wise operator is not computed on a rank's rows; "" where it is."""
    owners = [found.shards[one.node] for one in call.operands if one.node in found.shards]
    if not owners:
        return f"{operator_name(node)} reads rows where it expects what serves every row"
    rows = owners[0].rows
    if any(owner.rows is not rows for owner in owners):
        return "it reads the rows of two different groups"
    if not on(context, call.identity):
        return f"the identity {call.identity} is switched off"
    if len(owners) < len(call.operands) and not on(context, "chunk_replicated"):
        return "the identity chunk_replicated is switched off"
    several = isinstance(value(node), (tuple, list))
    for index, output in enumerate(value(node) if several else [value(node)]):
        read = not several or any(user.args[1] == index for user in node.users)
        if read and not has_rows(output, call.lead, rows):
            return f"its output {index} does not have the rows"
    return ""


def has_rows(output: Any, lead: int, rows: Rows) -> bool:
    """Whether the first dimensions of an output are the rows, and a gather of it can be written."""
    if not isinstance(output, Tensor) or output.dim() < lead:
        return False
    return same_size(math.prod(output.shape[:lead]), rows.count) and rows.holds(output.shape[:lead])


def needed_whole(
    shards: dict[fx.Node, Shard], profile: Profile, numeric: cost.Numbers, early: bool
) -> set[fx.Node]:
    """The sharded values to gather: those that others need whole, or what these are computed from.

    A value is computed whole from gathered operands where that is cheaper than gathering it: a view
    of a gathered value costs nothing, and the narrow operand of a widening cast has fewer bytes.
    """
    whole = {node for node in shards if any(needs_whole(user, shards) for user in node.users)}
    for node, shard in reversed(shards.items()):
        if node not in whole or shard.call is None or not early:
            continue
        operands = {one.node for one in shard.call.operands if one.node in shards}
        if any(not isinstance(value(one), Tensor) for one in operands):
            continue
        gathers = sum(
            gather_seconds(one, shards[one].rows, profile, numeric) for one in operands - whole
        )
        if gathers + whole_seconds(node, shard, profile, numeric) <= gather_seconds(
            node, shard.rows, profile, numeric
        ):
            whole = (whole - {node}) | operands
    return whole


def needs_whole(user: fx.Node, shards: Mapping[fx.Node, Shard]) -> bool:
    """Whether a user of a sharded value cannot work with a rank's rows."""
    return user not in shards


def gather_seconds(node: fx.Node, rows: Rows, profile: Profile, numeric: cost.Numbers) -> float:
    """Seconds of an all_gather that brings a value to all ranks."""
    sent = cost.tensor_bytes(value(node), numeric) * (rows.group.size - 1) / rows.group.size
    return profile.collective_latency + profile.hop_latency + sent / profile.link_bandwidth


def whole_seconds(node: fx.Node, shard: Shard, profile: Profile, numeric: cost.Numbers) -> float:
    """Seconds of computing a value for all rows; nothing for a view."""
    if shard.call is None or not shard.call.moves_data:
        return 0.0
    found = cost.operator_cost(node, profile, numeric)
    return found.seconds if found else 0.0


def local_needs(shards: dict[fx.Node, Shard], whole: set[fx.Node]) -> set[fx.Node]:
    """The values whose local rows are computed: what a gather reads, back to the all_reduces.

    An all_reduce whose result is only needed whole is not among them: it stays an all_reduce.
    """
    needed: set[fx.Node] = set()
    for node, shard in reversed(shards.items()):
        wanted = node in needed or (node in whole and shard.call is not None)
        if wanted:
            needed.add(node)
            needed.update(one.node for one in operands_of(shard) if one.node in shards)
    return needed


def operands_of(shard: Shard) -> list[RowsOf]:
    """What a shard's local call reads; nothing for an all_reduce."""
    return shard.call.operands if shard.call is not None else []


def built(graph: fx.Graph, found: Findings, whole: set[fx.Node], cancel: bool) -> Build:
    """Add reduce_scatters, local calls and gathers; the graph still works as it did."""
    build = Build(graph, NAME)
    needed = local_needs(found.shards, whole)
    prepared: set[Rows] = set()
    for node, shard in found.shards.items():
        if node not in needed:
            continue
        if shard.rows not in prepared:
            prepare_sizes(build, shard.rows, first_source(found, shard.rows))
            prepared.add(shard.rows)
        if shard.call is None:
            build.local[node] = scatter(build, shard.rows, node)
        else:
            rechunk = {} if cancel else build.gathered
            build.local[node] = local_node(build, shard.rows, node, shard.call, rechunk)
        if node in whole:
            build.gathered[node] = gather(build, shard.rows, node, shard.lead)
    return build


def first_source(found: Findings, rows: Rows) -> fx.Node:
    """The first all_reduce of a stream."""
    return next(n for n, shard in found.shards.items() if shard.rows is rows and shard.call is None)


def live(graph: fx.Graph, replaced: Mapping[fx.Node, fx.Node]) -> list[fx.Node]:
    """The nodes that would remain if `replaced` took the place of its keys."""
    waiting = [node for node in graph.nodes if node.op == "output" or has_effect(node)]
    reached: dict[fx.Node, None] = {}
    while waiting:
        node = waiting.pop()
        if node in reached:
            continue
        reached[node] = None
        made = node.meta.get("ascend_rule") == NAME
        inputs = node.all_input_nodes
        waiting += inputs if made else [replaced.get(one, one) for one in inputs]
    return list(reached)


def taken(before: Estimate, after: Estimate, plan: Plan) -> Decision:
    """The decision for the rewritten graph."""
    reason = f"at {plan.low} tokens {traffic(before, after)}"
    return Decision(NAME, "reduce_scatter and all_gather", reason, before.seconds, after.seconds)


def kept(before: Estimate, after: Estimate, plan: Plan) -> Decision:
    """The decision for a graph that is left as it was."""
    reason = f"no gain is estimated at {plan.low} tokens, though {traffic(before, after)}"
    return Decision(NAME, "all_reduce", reason, before.seconds, after.seconds)


def traffic(before: Estimate, after: Estimate) -> str:
    """Bytes each rank sends, before and after."""
    mebibyte = 2**20
    sent, now = before.wire_bytes / mebibyte, after.wire_bytes / mebibyte
    return f"each rank sends {now:.2f} MiB instead of {sent:.2f} MiB"


def gathers(build: Build) -> str:
    """What the gathers move, by element type."""
    kinds = Counter(str(value(node).dtype).removeprefix("torch.") for node in build.gathered)
    listed = ", ".join(f"{count} of {dtype}" for dtype, count in sorted(kinds.items()))
    return f"sequence_parallel gathers {len(build.gathered)} values: {listed}"
