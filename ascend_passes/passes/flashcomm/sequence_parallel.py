"""FlashComm: all_reduce becomes reduce_scatter and all_gather, and the gather sinks to its readers.

The rewriting is a chain of identities, each exact on its own:

    all_reduce(x)         = unpad(all_gather(reduce_scatter(pad(x))))
    f(all_gather(a), w)   = all_gather(f(a, w))           f works row by row
    f(all_gather(a), r)   = all_gather(f(a, chunk(r)))    r whole on every rank
    chunk(all_gather(a))  = a

`sinkable` finds the values that a rank can compute for its rows alone, `needed_whole` where all
rows are needed and gathered cheapest, `computed_padded` where padding moves fewest bytes, `built`
adds the nodes, and the cost model decides whether they stay.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from ascend_passes.cost import model as cost
from ascend_passes.cost import profiles
from ascend_passes.cost.profiles import Profile
from ascend_passes.distributed.groups import (
    busiest,
    family_of,
    group_name,
    ranks_of,
    resolve,
)
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.ir.graph import Context, operator_name, place, same_size, value
from ascend_passes.ir.traits import traits_of
from ascend_passes.options.value import switched_on
from ascend_passes.passes.flashcomm.build import Build
from ascend_passes.passes.flashcomm.decision import (
    ShardingTrial,
    compared,
    gathers,
    kept,
    taken,
    turn,
)
from ascend_passes.passes.flashcomm.gathers import Shard, local_needs, needed_whole
from ascend_passes.passes.flashcomm.padded_rows import Price, computed_padded, padded_value
from ascend_passes.passes.flashcomm.row_calls import LocalCall, RowsOf
from ascend_passes.passes.flashcomm.row_operators import local_call, one_of_several
from ascend_passes.passes.flashcomm.sharded_rows import (
    Rows,
    gather,
    local_node,
    prepare_sizes,
    reduce_of,
    scatter,
    source_input,
)
from ascend_passes.passes.flashcomm.sources import is_source, unfit_source
from ascend_passes.report.value import Miss, Report

NAME = "sequence_parallel"
STANDS_BACK = (
    "FlashComm stands back: the model's layers deal rows out to the ranks themselves "
    "(vllm-ascend's, under VLLM_ASCEND_ENABLE_FLASHCOMM1; leave it away and write "
    '"flashcomm": true to have ours)'
)
OTHER_RANKS = "other ranks sum more often, and what this sum meets may differ between its ranks"


@dataclass
class Findings:
    """What `sinkable` found, in graph order."""

    shards: dict[fx.Node, Shard] = field(default_factory=dict)
    misses: list[Miss] = field(default_factory=list)
    streams: list[Rows] = field(default_factory=list)
    ranks: tuple[int, ...] | str = ()
    """Those whose all_reduces are dealt out: the ones with most of them.

    What a graph reads is taken to be the same on all of these. Of two dimensions of a mesh that
    holds for the tensor-parallel one alone.
    """


def sequence_parallel(graph: fx.Graph, context: Context) -> Report:
    """Compute additions, norms and quantizations on T / tp rows where that should be faster."""
    if context.plan is None or not context.plan.flashcomm:
        return Report()
    if any(traits_of(node.target).hides_weight for node in graph.nodes):
        return Report(notes=(STANDS_BACK,))
    found = sinkable(graph, context)
    if not found.shards:
        return Report(misses=tuple(found.misses))
    profile = profiles.read_profile(context.options.profile)
    trial = tried(graph, found, profile, context.plan.low, context)
    if trial is None:  # every all_reduce is read whole at once
        return Report(misses=tuple(found.misses))
    if not trial.gains and on(context, "cost"):
        start = gain_from(graph, found, trial, profile, context)
        decision = kept(trial, context.plan, start)
        return Report(misses=tuple(found.misses), decisions=(decision,))
    build = trial.build
    for node, gathered in build.gathered.items():
        node.replace_all_uses_with(gathered, delete_user_cb=lambda user: user not in build.made)
    remove_dead(graph)
    sources = [node for node in build.local if found.shards[node].call is None]
    return Report(
        fired={NAME: len(sources)},
        misses=tuple(found.misses),
        decisions=(taken(trial, context.plan),),
        notes=(gathers(build),),
    )


def tried(
    graph: fx.Graph, found: Findings, profile: Profile, tokens: int, context: Context
) -> ShardingTrial | None:
    """Build the sharded form as it is cheapest for this many tokens, beside the graph as it was."""
    numeric = cost.numbers(graph, tokens)
    old = list(graph.nodes)
    whole = needed_whole(found.shards, profile, numeric, on(context, "gather_early"))
    price = Price(profile, numeric) if on(context, "pad_early") else None
    build = built(graph, found, whole, on(context, "cancel_chunk"), price)
    return compared(context, old, build, profile, numeric) if build.local else None


def gain_from(
    graph: fx.Graph, found: Findings, trial: ShardingTrial, profile: Profile, context: Context
) -> int | None:
    """The tokens of the plan's range from which the sharded form is estimated to be faster.

    None where it never is, and where the graph was traced for one token count. `trial` is the form
    for the plan's fewest tokens, which does not gain there and is discarded here. What is gathered
    and padded where depends on the tokens, so that each turn of the estimates is judged by a form
    of its own, and the form that is faster from there on may be so from fewer tokens.
    """
    assert context.plan is not None
    low = context.plan.low
    high = min(context.plan.high, cost.MOST_TOKENS)
    tokens = turn(graph, trial, profile, low, high) if low < high else None
    trial.build.discard()
    gained: int | None = None
    while tokens is not None and tokens < high and tokens != gained:
        other = tried(graph, found, profile, tokens, context)
        if other is None:
            return gained
        if other.gains:
            gained, tokens = tokens, turn(graph, other, profile, low, tokens)
        else:
            tokens = turn(graph, other, profile, tokens, high) if gained is None else None
        other.build.discard()
    return gained


def on(context: Context, identity: str) -> bool:
    """Whether one identity may be used: `-sequence_parallel.sink_norm` switches it off."""
    return switched_on(f"{NAME}.{identity}", context.options.passes)


def sinkable(graph: fx.Graph, context: Context) -> Findings:
    """Every value that a rank can compute for its rows alone, from the all_reduces downwards."""
    found = Findings(ranks=busiest(reduce_of(node) for node in graph.nodes if is_source(node)))
    lead_of = lambda node: found.shards[node].lead if node in found.shards else 0  # noqa: E731
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if is_source(node):
            start_stream(node, found)
            continue
        if not any(one in found.shards for one in node.all_input_nodes):
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
            # Of what it computes with: a copy's target, whose rows may be another group's, is not.
            rows = next(
                found.shards[n.node].rows for n in answer.operands if n.node in found.shards
            )
            found.shards[node] = Shard(rows, answer.lead, answer)
    return found


def start_stream(node: fx.Node, found: Findings) -> None:
    """Enter an all_reduce as a shard if its rows can be dealt out, else say why not."""
    call = reduce_of(node)
    group = resolve(group_name(call), family_of(call))
    reason = unfit_source(call, group) or ("" if ranks_of(call) == found.ranks else OTHER_RANKS)
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


def take_output(node: fx.Node, found: Findings) -> None:
    """Enter the `getitem` of a sharded operator."""
    source = node.args[0]
    shard = found.shards.get(source) if isinstance(source, fx.Node) else None
    if shard is None or node.target is not operator.getitem:
        return
    found.shards[node] = Shard(shard.rows, shard.lead, one_of_several(node, shard.lead))


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


def built(
    graph: fx.Graph, found: Findings, whole: set[fx.Node], cancel: bool, price: Price | None
) -> Build:
    """Add reduce_scatters, local calls and gathers; the graph still works as it did."""
    build = Build(graph, NAME)
    needs = local_needs(found.shards, whole)
    needed = {node: shard for node, shard in found.shards.items() if node in needs}
    early = {rows: computed_padded(rows, needed, whole, price) for rows in found.streams}
    prepared: set[Rows] = set()
    for node, shard in needed.items():
        rows = shard.rows
        if rows not in prepared:
            prepare_sizes(build, rows, first_source(found, rows))
            prepared.add(rows)
        if shard.call is None:
            partial = padded_value(
                build, RowsOf(source_input(node), shard.lead), rows, early[rows], node
            )
            build.local[node] = scatter(build, rows, node, partial)
        else:
            rechunk = {} if cancel else build.gathered
            build.local[node] = local_node(build, rows, node, shard.call, rechunk)
        if node in whole:
            build.gathered[node] = gather(build, rows, node, shard.lead)
    return build


def first_source(found: Findings, rows: Rows) -> fx.Node:
    """The first all_reduce of a stream."""
    return next(n for n, shard in found.shards.items() if shard.rows is rows and shard.call is None)
