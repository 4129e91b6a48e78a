"""Nodes that are put beside a graph until it is decided whether it gains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import fx

from ascend_passes.ir.edit import Editor


@dataclass
class Build(Editor):
    """What has been added to a graph so far, and what it is."""

    local: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """Node -> the node with this rank's rows of it, `[R, ...]`."""
    gathered: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """Node -> the node that has all its rows again, of the same shape."""
    padded: dict[tuple[fx.Node, int], fx.Node] = field(default_factory=dict)
    """Node and its row dimensions -> the node that has all rows and padding, `[R * tp, ...]`."""
    sizes: dict[tuple[int, str], fx.Node | int] = field(default_factory=dict)

    @contextmanager
    def behind(self, origin: fx.Node, place: fx.Node | None = None) -> Iterator[None]:
        """Nodes that are added inside stand for `origin`, behind it or another node and what was
        added there before."""
        after = (place or origin).next
        while after in self.made:
            after = after.next
        with self.at(origin, after):
            yield
