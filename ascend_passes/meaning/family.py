"""A family of operators: where its pieces may lie in a graph, and how one is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.meaning.answer import Answer, NotThat
from ascend_passes.meaning.cone import Cone
from ascend_passes.meaning.lift import WidePiece

Place = tuple[fx.Node, tuple[fx.Node, ...]]
"""A result, and what it may be computed from."""


@dataclass(frozen=True, eq=False)
class Recognition:
    """What pieces become, under a name that a report counts and the option `rules` switches."""

    summary: str
    """One sentence."""
    spelled: Callable[..., Any]
    """One spelling of many, for documentation and for `check`: a function of tensors."""
    example: Callable[[torch.Generator], tuple[Tensor, ...]]
    """Tensors for it, in a dtype that the operator takes."""
    tolerance: float = 2.0
    """Units in the last place, at the largest magnitude of a row, by which the operator may differ
    from the spelling in float64; of int8 results, steps."""
    hides_nan: bool = False
    """Whether a NaN ends in a number; off under the option `keep_nan`."""


@dataclass(frozen=True, eq=False)
class Recognizer:
    """What the driver asks of a family; see `docs/recognition.md`."""

    name: str
    rules: Mapping[str, Recognition]
    """What its answers count as."""
    anchors: frozenset[Any]
    """Operators one of which every piece has."""
    places: Callable[[fx.Node], Iterator[Place]]
    """Where a piece with this anchor may begin and end, the most wanted first."""
    piece: Callable[[Place], Cone | None]
    """The piece between; None for one that is not worth asking about, without computing."""
    solve: Callable[[WidePiece], Answer | NotThat]
    """What the piece is; it may raise what `lift.CANNOT_RUN` names."""
    allowed: frozenset[Any]
    """The operators that its pieces may have."""
    reach: tuple[int, int]
    """How many of them lie in front of an anchor, and behind it."""
    looks_like: Callable[[fx.Node], bool] = lambda anchor: False
    """Whether an anchor that stays looks like an operator of the family, so that it is told."""
    unlike: str = "in float64 it is another function than the operator's"
    """What is told of one of which nothing better is known."""
    shares: bool = False
    """Whether values inside may have other users, for which they then stay."""
    rounds_sums: bool = False
    """Whether a wide sum in front of the rows may be rounded to the dtype of the result, as the
    operator that takes both terms does."""
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


def random_rows(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Callable[..., Tensor]:
    """A maker of normal numbers of a shape, for examples."""
    return lambda source: torch.randn(shape, generator=source).to(dtype)


def random_scales(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Callable[..., Tensor]:
    """A maker of numbers from 1/2 to 3/2, for gains and scales of examples."""
    return lambda source: (torch.rand(shape, generator=source) + 0.5).to(dtype)


def random_int8(*shape: int) -> Callable[..., Tensor]:
    """A maker of int8 numbers, for examples."""
    return lambda source: torch.randint(-127, 128, shape, generator=source, dtype=torch.int8)


def made_of(*makers: Callable[..., Tensor]) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    """The tensors of several makers, for an example."""
    return lambda source: tuple(make(source) for make in makers)
