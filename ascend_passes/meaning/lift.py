"""A piece computed in float64 with its casts erased, so that value and rounding are two questions.

Symbolic sizes become numbers that the piece does not name otherwise, and many rows become few: what
holds for rows of a piece holds for each of them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import first, plain_size, value
from ascend_passes.meaning.cone import Cone, fake_tensor
from ascend_passes.meaning.vocabulary import CASTS

aten = torch.ops.aten
Values = dict[fx.Node, Any]
SIZED = frozenset(
    {
        *(aten.view.default, aten._unsafe_view.default, aten.reshape.default),
        *(aten.expand.default, aten.full.default, aten.zeros.default, aten.ones.default),
        *(aten.empty.memory_format, aten.new_empty.default, aten.new_zeros.default),
        *(aten.new_ones.default, aten.new_full.default, aten.new_empty_strided.default),
        aten.empty_strided.default,
    }
)
"""Operators that name sizes of their results."""
MADE = frozenset(
    {
        *(aten.full.default, aten.zeros.default, aten.ones.default, aten.eye.default),
        *(aten.scalar_tensor.default, aten.empty.memory_format, aten.empty_strided.default),
    }
)
"""Operators that make a tensor of no other."""
INTEGER_PRODUCTS = frozenset({aten._int_mm.default})
"""Products that take integers alone; float64 sums them exactly up to 2**53."""
FEW_ELEMENTS = 1 << 15
"""Elements of a source that is probed as it is."""
PRIMES = (3, 5, 7, 11, 13, 17, 19, 23)
"""Sizes that symbols get."""
CANNOT_RUN = (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError, KeyError)
"""What an operator raises that refuses float64, or other sizes."""


@dataclass(frozen=True)
class ProbeSizes:
    """Numbers for sizes while a piece is probed."""

    symbols: Mapping[Any, int] = field(default_factory=dict)
    """sympy symbol -> its number."""
    fewer: Mapping[int, int] = field(default_factory=dict)
    """A leading size -> the smaller one that stands for it."""
    every: bool = False
    """Whether the last sizes are made smaller as well: for sums whose length does not matter."""

    def number(self, item: Any) -> Any:
        """A size, or a number that is made of sizes, as a plain number."""
        if not isinstance(item, (torch.SymInt, torch.SymFloat)):
            return item
        made = item.node.expr.subs(dict(self.symbols))
        return int(made) if isinstance(item, torch.SymInt) else float(made)

    def shape(self, fake: Tensor) -> tuple[int, ...]:
        """The shape that a tensor has while it is probed."""
        return self.fewest([int(self.number(size)) for size in fake.shape])

    def fewest(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape with few rows."""
        kept = len(shape) if self.every else len(shape) - 1
        return tuple([self.fewer.get(size, size) for size in shape[:kept]] + [*shape[kept:]])


def sizes_for(cone: Cone) -> ProbeSizes:
    """Numbers for the sizes of a piece, so that few rows are computed."""
    fakes = [fake_tensor(node) for node in (*cone.sources, *cone.leaves, *cone.nodes)]
    named = {str(symbol): symbol for fake in fakes for symbol in symbols_of(fake)}
    symbols = dict(zip((named[name] for name in sorted(named)), unused(fakes), strict=False))
    plain = ProbeSizes(symbols)
    shape = [int(plain.number(size)) for size in value(cone.sources[0]).shape]
    if math.prod(shape) <= FEW_ELEMENTS or len(shape) < 2:
        return plain
    large = max(shape[:-1])
    rest = math.prod(shape[:-1]) // large
    few = max(2, min(large, FEW_ELEMENTS // max(1, shape[-1] * rest)))
    return ProbeSizes(symbols, {large: few, large * rest: few * rest})


def symbols_of(fake: Tensor | None) -> set[Any]:
    """The symbols in a tensor's sizes."""
    sizes: tuple[Any, ...] = () if fake is None else fake.shape
    return {
        symbol
        for size in sizes
        if isinstance(size, torch.SymInt)
        for symbol in size.node.expr.free_symbols
    }


def unused(fakes: Sequence[Tensor | None]) -> list[int]:
    """Primes that are no size of the tensors, so that a size that is named is not met by chance."""
    named = {plain_size(size) for fake in fakes if fake is not None for size in fake.shape}
    return [prime for prime in PRIMES if prime not in named]


@dataclass(frozen=True, eq=False)
class WidePiece:
    """A piece that can be asked for its value in float64."""

    cone: Cone
    sizes: ProbeSizes
    known: Mapping[fx.Node, Any] = field(default_factory=dict)
    """Leaves whose value does not change from probe to probe."""
    erased: frozenset[fx.Node] = frozenset()
    """Nodes that are taken for their first input, as casts are: roundings and clamps."""

    @classmethod
    def of(cls, cone: Cone, known: Mapping[fx.Node, Any] | None = None) -> WidePiece:
        """The piece with sizes that are few."""
        return cls(cone, sizes_for(cone), known or {})

    @property
    def unknown(self) -> list[fx.Node]:
        """The leaves that each probe has to give a value."""
        return [leaf for leaf in self.cone.leaves if leaf not in self.known]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's value while it is probed."""
        return self.sizes.shape(value(node))

    def at(self, given: Mapping[fx.Node, Tensor], wanted: fx.Node | None = None) -> Tensor:
        """The value of the piece, or of a node inside, for values of its sources and of the leaves
        that are not known.

        Raises:
            RuntimeError, ValueError, TypeError, NotImplementedError, IndexError, KeyError: it does
                not run so.
        """
        found: Values = {**self.known, **given}
        for node in self.cone.nodes:
            if node not in found:
                found[node] = self.call(node, found)
        result = found[self.cone.out if wanted is None else wanted]
        if not isinstance(result, Tensor):
            raise TypeError("several values")
        return result

    def call(self, node: fx.Node, found: Values) -> Any:
        """The value of one node."""
        if node.target in CASTS or node in self.erased:
            return self.argument(node.args[0], found)
        if node.target in INTEGER_PRODUCTS:
            return torch.mm(*(self.argument(item, found) for item in node.args))
        arguments = [self.argument(item, found) for item in node.args]
        keywords = {
            name: self.argument(item, found)
            for name, item in node.kwargs.items()
            if name not in ("device", "pin_memory", "layout", "memory_format")
        }
        if node.target is operator.getitem:
            return arguments[0][arguments[1]]
        if node.target in SIZED:
            place = 0 if node.target in MADE else 1
            arguments[place] = list(self.sizes.fewest(arguments[place]))
        if node.target in MADE:
            keywords["dtype"] = torch.float64
        if node.target is aten._fused_rms_norm.default and arguments[3] is None:
            arguments[3] = torch.finfo(value(first(node)).dtype).eps  # as of the rows' own dtype
        assert not isinstance(node.target, str)
        return node.target(*arguments, **keywords)

    def argument(self, item: Any, found: Values) -> Any:
        """An argument as a probe takes it."""
        if isinstance(item, fx.Node):
            return found[item] if item in found else self.sizes.number(size_behind(item))
        if isinstance(item, (list, tuple)):
            return type(item)(self.argument(one, found) for one in item)
        if isinstance(item, torch.dtype):
            return wide_kind(item)
        return self.sizes.number(item)


def size_behind(node: fx.Node) -> Any:
    """The size behind a node.

    Raises:
        KeyError: it has a tensor, which nobody gave.
    """
    fake = value(node)
    if isinstance(fake, (Tensor, tuple, list)) or fake is None:
        raise KeyError(node.name)
    return fake


def wide_kind(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the same kind with the most digits."""
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype
