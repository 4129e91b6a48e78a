"""What was found in a graph and can be replaced, by whatever finds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import fx


class Found(Protocol):
    """Nodes that compute some values from others."""

    @property
    def name(self) -> str:
        """Who found it, for the notes of new nodes."""

    @property
    def limit(self) -> str:
        """What the replacement does not give, where others want a value inside."""

    @property
    def anchor(self) -> fx.Node:
        """The node that the replacement stands for."""

    @property
    def nodes(self) -> tuple[fx.Node | None, ...]:
        """All that computes the values; None for a part of a result that nobody takes."""

    @property
    def outputs(self) -> tuple[fx.Node | None, ...]:
        """The values that are replaced."""

    @property
    def interior(self) -> Iterator[fx.Node]:
        """The nodes that nobody else may use."""

    @property
    def inputs(self) -> Mapping[str, fx.Node]:
        """What the values are computed from."""
