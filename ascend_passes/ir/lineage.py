"""Which node of a rewritten graph stands for which node of the graph that was traced.

Whatever rewrites a graph hands the readers of one node another one and erases what nobody reads any
more; fx tells who listens. So no pass has to say anything, and one that is added later is followed
as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import fx


@dataclass
class Lineage:
    """Heirs of the nodes of one graph while it is rewritten."""

    graph: fx.Graph
    heirs: dict[str, str] = field(default_factory=dict)
    """Node -> the node that its readers were given, or that its erased reader went to."""
    bequeathed: dict[str, str] = field(default_factory=dict)
    """Node -> where its reader went, in case that the node goes as well."""

    def replaced(self, old: fx.Node, new: str, user: fx.Node) -> None:
        """Readers of `old` were given `new`."""
        self.follow(old.graph)
        self.heirs[old.name] = new

    def erased(self, node: fx.Node) -> None:
        """A node goes; what it read alone goes after it, and went where it went."""
        self.follow(node.graph)
        heir = self.heirs.get(node.name) or self.bequeathed.get(node.name)
        if heir is None:
            return
        self.heirs[node.name] = heir
        for source in node.all_input_nodes:
            self.bequeathed[source.name] = heir

    def follow(self, graph: fx.Graph) -> None:
        """Forget all where the rewriting has started again, on another copy of the graph."""
        if graph is not self.graph:
            self.graph = graph
            self.heirs.clear()
            self.bequeathed.clear()

    def successor(self, name: str, there: Set[str]) -> str:
        """The node of `there` that stands for a node, itself if it is one; "" where none does."""
        seen: set[str] = set()
        while name not in there and name in self.heirs and name not in seen:
            seen.add(name)
            name = self.heirs[name]
        return name if name in there else ""


@contextmanager
def lineage_followed(gm: fx.GraphModule) -> Iterator[Lineage]:
    """Inside, it is noted what takes the place of the nodes of `gm`."""
    lineage = Lineage(gm.graph)
    gm._register_replace_node_hook(lineage.replaced)
    gm._register_erase_node_hook(lineage.erased)
    try:
        yield lineage
    finally:
        gm._unregister_replace_node_hook(lineage.replaced)
        gm._unregister_erase_node_hook(lineage.erased)
