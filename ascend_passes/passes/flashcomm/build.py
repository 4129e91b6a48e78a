"""Nodes that are put beside a graph until it is decided whether it gains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import fx


@dataclass
class Build:
    """What has been added to a graph so far; everything in `made` may be erased again."""

    graph: fx.Graph
    author: str
    """The pass, for the origin of its nodes."""
    local: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """Node -> the node with this rank's rows of it, `[R, ...]`."""
    gathered: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """Node -> the node that has all its rows again, of the same shape."""
    padded: dict[tuple[fx.Node, int], fx.Node] = field(default_factory=dict)
    """Node and its row dimensions -> the node that has all rows and padding, `[R * tp, ...]`."""
    sizes: dict[tuple[int, str], fx.Node | int] = field(default_factory=dict)
    made: dict[fx.Node, None] = field(default_factory=dict)

    def discard(self) -> None:
        """Erase all added nodes; the graph is as it was."""
        for node in reversed(list(self.made)):
            self.graph.erase_node(node)


@contextmanager
def stands_for(
    build: Build, origin: fx.Node, before: bool = False, behind: fx.Node | None = None
) -> Iterator[None]:
    """Nodes made inside stand before or behind `origin` and carry its place in the model.

    With `behind` they stand behind that node instead.
    """
    first, place = len(build.made), origin if before else (behind or origin).next
    while place in build.made and not before:
        place = place.next
    with build.graph.inserting_before(place):
        yield
    for node in list(build.made)[first:]:
        for key in ("stack_trace", "nn_module_stack"):
            if key in origin.meta:
                node.meta[key] = origin.meta[key]
        node.meta["ascend_rule"] = build.author


def add(build: Build, target: Any, args: tuple[Any, ...], meta: Any, **kwargs: Any) -> fx.Node:
    """A call whose value is already known: sizes follow from the algebra, no guard is needed."""
    node = build.graph.call_function(target, args, kwargs)
    node.meta["val"] = meta
    build.made[node] = None
    return node
