"""A family of operators: where its pieces may lie in a graph, and how one is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from ascend_passes.meaning.answer import Answer, NotThat
from ascend_passes.meaning.cone import Cone
from ascend_passes.meaning.lift import Lifted

Place = tuple[fx.Node, tuple[fx.Node, ...]]
"""A result, and what it may be computed from."""


@dataclass(frozen=True, eq=False)
class Family:
    """What the driver asks of a family; see `docs/recognition.md`."""

    name: str
    rules: Mapping[str, str]
    """What its answers count as, and what each is, in a sentence."""
    anchors: frozenset[Any]
    """Operators one of which every piece has."""
    places: Callable[[fx.Node], Iterator[Place]]
    """Where a piece with this anchor may begin and end, the most wanted first."""
    piece: Callable[[Place], Cone | None]
    """The piece between; None for one that is not worth asking about, without computing."""
    solve: Callable[[Lifted], Answer | NotThat]
    """What the piece is."""
    allowed: frozenset[Any]
    """The operators that its pieces may have."""
    reach: tuple[int, int]
    """How many of them lie in front of an anchor, and behind it."""
    reads_numbers: bool = False
    """Whether a parameter of one element counts as the number that it holds, which the graph then
    rests on: an epsilon, which an operator takes as an attribute."""


def agrees(found: Tensor, wanted: Tensor, bound: float = 1e-9) -> bool:
    """Whether two float64 values of a probe are the same: they differ by at most `bound` of the
    largest magnitude, which float64 sums of 25,600 terms in another order do by 1e-12."""
    if found.numel() != wanted.numel() or found.is_complex() != wanted.is_complex():
        return False
    apart = (found.reshape(wanted.shape) - wanted).abs().max()
    return bool(apart <= bound * wanted.abs().max().clamp(min=1e-300))
