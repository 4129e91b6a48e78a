"""What a rule costs while compiling, and what its replacement saves."""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass

from torch import fx

from ascend_passes.engine.rewrite import rewrite
from ascend_passes.engine.rule import Rule
from ascend_passes.engine.template import output_nodes
from ascend_passes.ir.blueprint import copied_module
from ascend_passes.ir.graph import Context, is_view, value
from ascend_passes.verify.firing import firing

ROUNDS = 5
SITES = 16
"""Copies of the pattern in one graph, as layers of a model are."""


@dataclass(frozen=True)
class Bench:
    """Figures of one rule on its first example, in the first dtype that fires."""

    first: float
    """Seconds to rewrite one site with nothing traced yet: the pattern and the replacement are."""
    site: float
    """Seconds for each further site of a graph; the median of five graphs."""
    kernels_before: int
    """Operators that the pattern runs on rows; views and work on parameters alone are free."""
    kernels_after: int

    def __str__(self) -> str:
        return (
            f"{self.first * 1e3:.0f} ms for the first site, {self.site * 1e3:.2f} ms for others; "
            f"kernels {self.kernels_before} -> {self.kernels_after}"
        )


def bench(rule: Rule, seed: int = 0) -> Bench | None:
    """The figures of a rule; None where it fires at none of its dtypes."""
    for spelling in rule.spellings:
        trial = firing(rule, spelling, seed)
        if trial is not None:
            break
    else:
        return None
    one = trial.graph()
    fresh = Rule(**{name: getattr(trial.rule, name) for name in trial.rule.__dataclass_fields__})
    first, after = timed(copied_module(one)[0], fresh)
    rounds = [timed(repeated(one, SITES), fresh)[0] for _ in range(ROUNDS)]
    single = min(timed(copied_module(one)[0], fresh)[0] for _ in range(ROUNDS))
    site = max(0.0, statistics.median(rounds) - single) / (SITES - 1)
    return Bench(first, site, kernels(one, trial.row_sizes), kernels(after, trial.row_sizes))


def timed(gm: fx.GraphModule, rule: Rule) -> tuple[float, fx.GraphModule]:
    """Seconds that the rule takes on a graph, which it rewrites."""
    start = time.perf_counter()
    rewrite(gm.graph, [rule], Context())
    return time.perf_counter() - start, gm


def repeated(gm: fx.GraphModule, count: int) -> fx.GraphModule:
    """A graph that computes the same `count` times, from the same inputs."""
    graph = fx.Graph()
    inputs = {node: graph.node_copy(node) for node in gm.graph.find_nodes(op="placeholder")}
    results: list[fx.Node] = []
    for _ in range(count):
        new = dict(inputs)
        for node in calls(gm):
            new[node] = graph.node_copy(node, new.__getitem__)
        results += [new[node] for node in output_nodes(gm.graph)]
    graph.output(tuple(results))
    return fx.GraphModule(gm, graph)


def calls(gm: fx.GraphModule) -> list[fx.Node]:
    """The operator calls of a graph."""
    return [node for node in gm.graph.nodes if node.op == "call_function"]


def kernels(gm: fx.GraphModule, row_sizes: Collection[int]) -> int:
    """The operators on rows: what depends on an input that has some, but views and results."""
    first, *others = gm.graph.find_nodes(op="placeholder")
    rows = {node for node in others if not set(value(node).shape[:-1]).isdisjoint(row_sizes)}
    rows.add(first)
    count = 0
    for node in calls(gm):
        if rows.isdisjoint(node.all_input_nodes):
            continue
        negated = any(source.op == "placeholder" for source in node.all_input_nodes)
        rows.add(node)
        count += not (negated or is_view(node) or node.target is operator.getitem)
    return count
