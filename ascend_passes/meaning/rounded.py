"""A piece that rounds, asked with and without its rounding and clamps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from ascend_passes.meaning.cone import calls_on_rows
from ascend_passes.meaning.family import agrees
from ascend_passes.meaning.lift import WidePiece
from ascend_passes.meaning.vocabulary import CLAMPS, ROUNDINGS

aten = torch.ops.aten
LOWEST, HIGHEST = -128.0, 127.0
BEYOND = 1e30
"""Magnitude of rows beyond all numbers that a clamp may name."""
STEPS = 127.0
"""Steps of the operator's dynamic scale from zero to the largest magnitude of a row."""


@dataclass(frozen=True, eq=False)
class Rounded:
    """A piece that is asked with and without its rounding and clamps."""

    lifted: WidePiece
    plain: WidePiece
    """Without rounding and clamps of values as large as the rows."""
    last: fx.Node
    """The last of them, whose value is the integer."""
    given: Mapping[fx.Node, Tensor]
    """Values for the leaves: powers of two, so that scales divide exactly, and none of them 1, with
    which an integer is what it stands for."""

    @classmethod
    def of(cls, lifted: WidePiece) -> Rounded:
        """The piece with random leaves."""
        source = torch.Generator().manual_seed(5)
        inside = calls_on_rows(lifted.cone, ROUNDINGS | CLAMPS)
        given = {
            leaf: 2.0 ** torch.randint(1, 4, lifted.shape(leaf), generator=source).double()
            for leaf in lifted.unknown
        }
        return cls(lifted, replace(lifted, erased=frozenset(inside)), inside[-1], given)

    def with_integers(self, scales: set[fx.Node]) -> Rounded:
        """The piece with integers for all leaves but the scales, as zero points are."""
        source = torch.Generator().manual_seed(7)
        given = {
            leaf: held
            if leaf in scales
            else torch.randint(-5, 6, held.shape, generator=source).double()
            for leaf, held in self.given.items()
        }
        return replace(self, given=given)

    def rows(self, magnitude: float, seed: int = 6) -> Tensor:
        """Random rows."""
        source = torch.Generator().manual_seed(seed)
        shape = self.lifted.shape(self.lifted.cone.sources[0])
        return torch.randn(shape, generator=source, dtype=torch.float64) * magnitude

    def whole(self, x: Tensor) -> Tensor:
        """The integers of rows."""
        return self.lifted.at({**self.given, self.lifted.cone.sources[0]: x}, self.last)

    def smooth(self, x: Tensor, given: Mapping[fx.Node, Tensor] | None = None) -> Tensor:
        """The integers of rows before they are rounded."""
        found = self.given if given is None else given
        return self.plain.at({**found, self.lifted.cone.sources[0]: x}, self.last).reshape(x.shape)


def reads_back(rounded: Rounded, smooth: Tensor | float = 1.0) -> bool | None:
    """Whether the result is what the integers stand for, and not they; None where it is neither."""
    x = rounded.rows(1.0)
    x = x * 32 / rounded.smooth(x).abs().max()  # of integers that are not all zero
    at = {**rounded.given, rounded.lifted.cone.sources[0]: x}
    if agrees(rounded.lifted.at(at), rounded.lifted.at(at, rounded.last)):
        return False
    return True if agrees(rounded.plain.at(at), x * smooth) else None


def near_integers(found: Tensor, wanted: Tensor) -> bool:
    """Whether integers are the same, but for a thousandth that lie at a tie."""
    apart = (found - wanted).abs()
    return bool(apart.max() <= 1 and (apart > 0).double().mean() <= 1e-3)
