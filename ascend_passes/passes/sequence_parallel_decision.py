"""Whether FlashComm pays: the estimates of a graph's two forms, and what is said of them."""

from __future__ import annotations

from collections import Counter

from torch import fx

from ascend_passes import cost
from ascend_passes.cost import Estimate
from ascend_passes.graph import has_effect, value
from ascend_passes.passes.sharded_rows import Build
from ascend_passes.plan import Plan
from ascend_passes.profiles import Profile
from ascend_passes.report import Decision


def taken(build: Build, before: Estimate, after: Estimate, plan: Plan) -> Decision:
    """The decision for the rewritten graph."""
    reason = f"at {plan.low} tokens {traffic(before, after)}"
    return Decision(
        build.author, "reduce_scatter and all_gather", reason, before.seconds, after.seconds
    )


def kept(
    build: Build, before: Estimate, after: Estimate, plan: Plan, start: int | None
) -> Decision:
    """The decision for a graph that is left as it was; its `after` is that of the other form."""
    then = f"; it gains from {start} tokens on" if start else ""
    reason = f"no gain is estimated at {plan.low} tokens, though {traffic(before, after)}{then}"
    return Decision(build.author, "all_reduce", reason, before.seconds, after.seconds, start)


def gain_from(
    graph: fx.Graph, old: list[fx.Node], build: Build, profile: Profile, plan: Plan
) -> int | None:
    """The least token count of a plan from which the built form is estimated to be faster.

    None where it never is, and where the graph was traced for one token count.
    """
    if cost.token_rows(graph) is None:
        return None
    new = live(graph, build)

    def seconds(nodes: list[fx.Node]) -> cost.Seconds:
        return lambda tokens: (
            cost.estimate_nodes(nodes, profile, cost.numbers(graph, tokens)).seconds
        )

    start = cost.crossing(seconds(old), seconds(new), min(plan.high, cost.MOST_TOKENS))
    return start if start is not None and start > plan.low else None


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
