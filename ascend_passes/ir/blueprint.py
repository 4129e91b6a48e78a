"""A graph as it was, to make it again: what its nodes said, without nodes of its own.

Taking one costs a fraction of a copy, so that any stage may fail and the graph start again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx

Nodes = dict[fx.Node, fx.Node]
"""Node of a graph -> its copy."""


class Part(NamedTuple):
    """What a node said; its arguments name the nodes of the graph that it was in. There is one for
    each node of a model, and a tuple is made in a tenth of the time of a frozen dataclass."""

    node: fx.Node
    """Which one it was; it may have changed since, or be gone."""
    op: str
    target: Any
    args: Any
    kwargs: Any
    name: str
    type: Any
    meta: dict[str, Any]


@dataclass(frozen=True)
class Blueprint:
    """A graph at some time; values and origins of its nodes are shared."""

    parts: tuple[Part, ...]
    module: Any
    codegen: Any

    @classmethod
    def of(cls, graph: fx.Graph) -> Blueprint:
        """The graph as it is now."""
        parts = tuple(
            Part(n, n.op, n.target, n.args, n.kwargs, n.name, n.type, dict(n.meta))
            for n in graph.nodes
        )
        return cls(parts, graph.owning_module, graph._codegen)

    def made(self) -> tuple[fx.Graph, Nodes]:
        """A new graph, and where each node went."""
        graph, new = fx.Graph(self.module), Nodes()
        for part in self.parts:
            args = fx.map_arg(part.args, new.__getitem__)
            kwargs: Any = fx.map_arg(part.kwargs, new.__getitem__)
            node = graph.create_node(part.op, part.target, args, kwargs, part.name, part.type)
            node.meta = dict(part.meta)
            new[part.node] = node
        graph._codegen = self.codegen
        return graph, new


def copied(graph: fx.Graph) -> fx.Graph:
    """The same graph with nodes of its own."""
    return Blueprint.of(graph).made()[0]


def copied_module(gm: fx.GraphModule) -> tuple[fx.GraphModule, Nodes]:
    """A module with a copy of the graph and the same parameters, and where each node went."""
    graph, new = Blueprint.of(gm.graph).made()
    return fx.GraphModule(gm, graph), new
