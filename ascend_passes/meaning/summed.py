"""An integer product, asked with any integers and scales."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ascend_passes.ir.graph import value
from ascend_passes.meaning.lift import PRIMES, ProbeSizes, WidePiece
from ascend_passes.meaning.powers import Values

LARGEST = 9999
"""Integers of probes: larger than int8, so that no product is met by chance."""


@dataclass(frozen=True, eq=False)
class Summed:
    """A piece that is asked with any integers and scales."""

    lifted: WidePiece
    given: Values
    """Values for the leaves."""
    rows: Tensor
    weight: Tensor
    transposed: bool
    """Whether the weight is [N, K]."""

    @classmethod
    def of(cls, lifted: WidePiece) -> Summed:
        """The piece with random integers and scales."""
        source = torch.Generator().manual_seed(8)
        lifted = replace(lifted, sizes=small_sizes(lifted))
        q, w = (lifted.shape(node) for node in lifted.cone.sources)

        def integers(shape: tuple[int, ...]) -> Tensor:
            return torch.randint(-LARGEST, LARGEST + 1, shape, generator=source).double()

        given = {
            leaf: torch.rand(lifted.shape(leaf), generator=source, dtype=torch.float64) + 0.5
            for leaf in lifted.unknown
        }
        count = math.prod(lifted.shape(lifted.cone.out))
        along_last = math.prod(q[:-1]) * w[0] == count and w[1] == q[-1]
        return cls(lifted, given, integers(q), integers(w), along_last)

    @property
    def plain(self) -> Tensor:
        """The product of rows and weight, [M, N]."""
        rows = self.rows.reshape(-1, self.rows.shape[-1])
        return rows @ (self.weight.t() if self.transposed else self.weight)

    @property
    def sums(self) -> Tensor:
        """The sum of each column of the weight, [1, N]."""
        return self.weight.sum(int(self.transposed), keepdim=False).unsqueeze(0)

    def at(self, q: float, w: float, given: Values | None = None) -> Tensor:
        """The piece for multiples of the rows and of the weight, [M, N]."""
        one, other = self.lifted.cone.sources
        held = self.given if given is None else given
        found = self.lifted.at({**held, one: self.rows * q, other: self.weight * w})
        return found.reshape(-1, self.sums.shape[-1])

    def factor(self, given: Values | None = None) -> Tensor:
        """What the product is multiplied by, [M, N]."""
        return (self.at(1, 1, given) - self.at(0, 1, given)) / self.plain

    def point(self, given: Values | None = None) -> Tensor:
        """What is added to each row beside the bias, over the sums of the weight's columns and the
        factor, [M, N]: minus the zero point of the rows."""
        return (self.at(0, 1, given) - self.at(0, 0, given)) / self.factor(given) / self.sums

    def bias(self, given: Values | None = None) -> Tensor:
        """What is added whatever the operands are, [M, N]."""
        return self.at(0, 0, given)


def small_sizes(lifted: WidePiece) -> ProbeSizes:
    """Numbers for all sizes of rows and weight, so that a product costs nothing."""
    q, w = (value(node).shape for node in lifted.cone.sources)
    plain = ProbeSizes(lifted.sizes.symbols)
    numbers = [int(plain.number(size)) for size in (*q, *w)]
    free = iter([prime for prime in PRIMES if prime not in numbers])
    fewer: dict[int, int] = {}
    for number in numbers:
        if number > PRIMES[-1] and number not in fewer:
            fewer[number] = next(free, number)
    rows = numbers[: len(q) - 1]
    merged = math.prod(rows)
    few = math.prod(fewer.get(size, size) for size in rows)
    if merged not in fewer and few != merged:
        fewer[merged] = few
    return ProbeSizes(lifted.sizes.symbols, fewer, every=True)
