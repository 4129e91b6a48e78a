"""Whether FlashComm pays: the estimates of a graph's two forms, and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from torch import fx

from ascend_passes.cost import model as cost
from ascend_passes.cost.model import Estimate
from ascend_passes.cost.profiles import Profile
from ascend_passes.ir.graph import Context, has_effect, value
from ascend_passes.ir.traits import ALL_GATHER
from ascend_passes.options.plans import Plan
from ascend_passes.passes.flashcomm.build import Build
from ascend_passes.passes.flashcomm.join_gathers import are_joined, gathers_of_one_call
from ascend_passes.report.value import Decision


@dataclass(frozen=True)
class ShardingTrial:
    """The sharded form of a graph, built beside the form that it had, and both estimates."""

    build: Build
    old: list[fx.Node]
    new: list[fx.Node]
    joined: frozenset[str]
    """Names of the gathers that another one takes along."""
    before: Estimate
    after: Estimate

    @property
    def gains(self) -> bool:
        """Whether the sharded form is estimated to be faster."""
        return self.after.seconds < self.before.seconds


def compared(
    context: Context, old: list[fx.Node], build: Build, profile: Profile, numeric: cost.Numbers
) -> ShardingTrial:
    """The trial of what was built; `old` are the graph's nodes without it."""
    new = live(build.graph, build)
    together = gathers_of_one_call(new) if are_joined(context) else ()
    joined = frozenset(node.name for gathers in together for node in gathers[1:])
    before = cost.estimate_nodes(old, profile, numeric)
    return ShardingTrial(
        build, old, new, joined, before, estimated_sharded(new, joined, profile, numeric)
    )


def estimated_sharded(
    nodes: list[fx.Node], joined: Collection[str], profile: Profile, numeric: cost.Numbers
) -> Estimate:
    """The estimate of a sharded form, in which joined gathers have no latency of their own."""
    latency = profile.collective_seconds(ALL_GATHER, 0.0)
    apart = cost.estimate_nodes(nodes, profile, numeric)
    return Estimate(
        tuple(
            one._replace(seconds=one.seconds - latency) if one.node in joined else one
            for one in apart.operators
        )
    )


def turn(
    graph: fx.Graph, trial: ShardingTrial, profile: Profile, low: int, high: int
) -> int | None:
    """A number of tokens above `low` from which a trial that does not gain there would gain.

    None where it would not at `high`, and where the graph was traced for one number of tokens.
    """
    if cost.token_rows(graph) is None:
        return None

    def seconds(nodes: list[fx.Node], joined: Collection[str]) -> cost.Seconds:
        return lambda tokens: (
            estimated_sharded(nodes, joined, profile, cost.numbers(graph, tokens)).seconds
        )

    after = seconds(trial.new, trial.joined)
    return cost.crossing(seconds(trial.old, ()), after, high, low)


def taken(trial: ShardingTrial, plan: Plan) -> Decision:
    """The decision for the rewritten graph."""
    before, after, author = trial.before, trial.after, trial.build.author
    reason = f"at {plan.low} tokens {traffic(before, after)}"
    return Decision(author, "reduce_scatter and all_gather", reason, before.seconds, after.seconds)


def kept(trial: ShardingTrial, plan: Plan, start: int | None) -> Decision:
    """The decision for a graph that is left as it was; its `after` is that of the other form."""
    before, after = trial.before, trial.after
    then = f"; it gains from {start} tokens on" if start else ""
    reason = f"no gain is estimated at {plan.low} tokens, though {traffic(before, after)}{then}"
    return Decision(trial.build.author, "all_reduce", reason, before.seconds, after.seconds, start)


def traffic(before: Estimate, after: Estimate) -> str:
    """Bytes each rank sends, before and after."""
    mebibyte = 2**20
    sent, now = before.wire_bytes / mebibyte, after.wire_bytes / mebibyte
    return f"each rank sends {now:.2f} MiB instead of {sent:.2f} MiB"


def gathers(build: Build) -> str:
    """What the gathers move, by element type."""
    kinds = Counter(str(value(node).dtype).removeprefix("torch.") for node in build.gathered)
    listed = ", ".join(f"{count} of {dtype}" for dtype, count in sorted(kinds.items()))
    return f"{build.author} gathers {len(build.gathered)} values: {listed}"


def live(graph: fx.Graph, build: Build) -> list[fx.Node]:
    """The nodes that would remain if the gathered values took the place of the old ones."""
    waiting = [node for node in graph.nodes if node.op == "output" or has_effect(node)]
    reached: dict[fx.Node, None] = {}
    while waiting:
        node = waiting.pop()
        if node in reached:
            continue
        reached[node] = None
        made = node.meta.get("ascend_rule") == build.author
        inputs = node.all_input_nodes
        waiting += inputs if made else [build.gathered.get(one, one) for one in inputs]
    return list(reached)
