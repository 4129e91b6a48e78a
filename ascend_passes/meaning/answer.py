"""What a piece turns out to be: an operator, its inputs among the piece's own, and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from ascend_passes.meaning.cone import Cone


@dataclass(frozen=True)
class Slot:
    """An input of a piece, by its place: pieces of one structure have it in the same."""

    place: int
    leaf: bool = False
    """Whether it is counted among the leaves, not among the sources."""

    @classmethod
    def of_leaf(cls, cone: Cone, leaf: fx.Node) -> Slot:
        """The place of a leaf."""
        return cls(cone.leaves.index(leaf), leaf=True)

    def node(self, cone: Cone) -> fx.Node:
        """The input of a piece."""
        return (cone.leaves if self.leaf else cone.sources)[self.place]


@dataclass(frozen=True, eq=False)
class Answer:
    """The operator that a piece is, for all pieces of its structure."""

    rule: str
    """What a report counts."""
    build: Callable[..., Tensor | tuple[Tensor, ...]]
    """Of the inputs by name and the numbers: the operator's result, with as many elements as `out`,
    and those for `others`."""
    inputs: Mapping[str, Slot]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    """Inputs whose dims are those of the result, or broadcast with them."""
    prepare: Callable[..., Mapping[str, Tensor]] | None = None
    """What the inputs are to become before their dims are moved, if anything."""
    note: str = ""
    """Where the operator's value differs from the spelling's."""


@dataclass(frozen=True)
class NotThat:
    """Why a piece is not what was asked for."""

    reason: str
    near: bool = False
    """Whether it is near enough that a reader of the report should know."""
