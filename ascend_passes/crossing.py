"""Where FlashComm begins to pay for a graph, by the cost model; for `flashcomm_tokens` = -1."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from ascend_passes import cost, profiles
from ascend_passes.graph import Context
from ascend_passes.normalize import normalize
from ascend_passes.options import Options
from ascend_passes.passes.sequence_parallel import sequence_parallel
from ascend_passes.plan import UNBOUNDED, Plan


def flashcomm_crossing(graph: fx.Graph, options: Options) -> int | None:
    """The least token count at which the sharded form of a graph is estimated to be faster.

    None where it never is, where nothing can be sharded, and where the token count is static: then
    the pass itself decides for that count.
    """
    if cost.token_rows(graph) is None:
        return None
    before, after = copied(graph), copied(graph)
    normalize(before)
    normalize(after)
    switches = ",".join(filter(None, (options.passes, "-sequence_parallel.cost")))
    context = Context(
        replace(options, passes=switches), Plan("estimate", 1, UNBOUNDED, flashcomm=True)
    )
    if not sequence_parallel(after, context).fired:
        return None
    profile = profiles.read(options.profile)
    return cost.crossing(
        lambda tokens: cost.estimate(before, profile, tokens).seconds,
        lambda tokens: cost.estimate(after, profile, tokens).seconds,
    )


def copied(graph: fx.Graph) -> fx.Graph:
    """The same graph with nodes of its own."""
    copy = fx.Graph(graph.owning_module)
    copy.output(copy.graph_copy(graph, {}))
    return copy
