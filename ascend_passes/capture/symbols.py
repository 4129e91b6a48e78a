"""Traced sizes: the expressions behind them, and their numbers at a call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import value
from ascend_passes.ir.traced_sizes import size_of_inputs

Number = Callable[[Sequence[Any]], int]
"""From a call's flat inputs to a number of the graph."""


def is_tensor(node: fx.Node) -> bool:
    """Whether the node's value is one tensor."""
    return isinstance(value(node), Tensor)


def symbol_of(size: Any) -> Any:
    """The symbol that a size is; None for numbers and composed expressions."""
    expression = expression_of(size)
    return expression if getattr(expression, "is_symbol", False) else None


def expression_of(size: Any) -> Any:
    """The sympy expression of a SymInt, other sizes as they are."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def expressions(sizes: Iterable[Any]) -> tuple[Any, ...]:
    """The sizes as traced."""
    return tuple(map(expression_of, sizes))


def free_symbols(size: Any) -> frozenset[Any]:
    """The symbols in a traced size or its expression."""
    return frozenset(getattr(expression_of(size), "free_symbols", ()))


def evaluate(sizes: Sequence[Any], bindings: Mapping[Any, int]) -> tuple[Any, ...]:
    """Traced sizes as numbers, for these values of the symbols."""
    return tuple(int(size.subs(bindings)) if hasattr(size, "subs") else size for size in sizes)


def known_symbols(inputs: Sequence[fx.Node]) -> dict[Any, tuple[int, int | None]]:
    """Symbol -> the input, and its dimension unless it is a number, that give its value."""
    found: dict[Any, tuple[int, int | None]] = {}
    for index, node in enumerate(inputs):
        sizes = enumerate(value(node).shape) if is_tensor(node) else [(None, value(node))]
        for dim, size in sizes:
            symbol = symbol_of(size)
            if symbol is not None:
                found.setdefault(symbol, (index, dim))
    return found


def source_of_number(given: Any, graph: fx.Graph) -> Number | None:
    """How an integer of the graph follows from a call's inputs; None where it does not."""
    found = value(given) if isinstance(given, fx.Node) else given
    if isinstance(found, torch.SymInt):
        with contextlib.suppress(KeyError):  # a number that the graph reads from data
            return size_of_inputs(found, graph)
        return None
    return (lambda inputs: found) if type(found) is int else None
