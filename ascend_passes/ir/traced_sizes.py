"""Sizes of a traced graph as numbers of a call: where a symbol stands among the inputs."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.Constant),
    *(ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.USub),
)
"""What the text of a size may consist of to mean in Python what it means in sympy."""


@functools.cache
def arithmetic(text: str) -> Callable[..., Any] | None:
    """A function of the names in a text, in their order by name; None where the text is more than
    sums, products and floor divisions of names and integers."""
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, ARITHMETIC):
            return None
        if isinstance(node, ast.Constant) and type(node.value) is not int:
            return None
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    function: Callable[..., Any] = eval(f"lambda {', '.join(names)}: {text}", {"__builtins__": {}})
    return function


@functools.cache
def _python_functions() -> dict[str, Callable[..., Any]]:
    return {
        "FloorDiv": lambda a, b: a // b,
        "Mod": lambda a, b: a % b,
        "PythonMod": lambda a, b: a % b,
    }


def size_function(expression: Any, symbols: Sequence[Any]) -> Callable[..., Any]:
    """A Python function for a size expression: integers give integers, SymInts give SymInts.

    Args:
        expression: sympy expression of a traced size.
        symbols: the sympy symbols in the order of the function's arguments.
    """
    plain = arithmetic(str(expression))
    if plain is not None and [str(symbol) for symbol in symbols] == sorted(map(str, symbols)):
        return plain
    import sympy

    return sympy.lambdify(  # type: ignore[no-any-return]
        list(symbols), expression, modules=[_python_functions(), "math"]
    )


def size_of_inputs(expression: torch.SymInt, graph: fx.Graph) -> Callable[[Sequence[Any]], int]:
    """A function from a call's flat inputs to the number behind a size expression."""
    symbols = sorted(expression.node.expr.free_symbols, key=str)
    sources = [symbol_source(symbol, graph) for symbol in symbols]
    function = size_function(expression.node.expr, symbols)

    def count(inputs: Sequence[Any]) -> int:
        numbers = (
            inputs[index] if dim is None else inputs[index].shape[dim] for index, dim in sources
        )
        return int(function(*numbers))

    return count


def symbol_source(symbol: Any, graph: fx.Graph) -> tuple[int, int | None]:
    """The input, and its dim unless the input is the number itself, that a symbol stands for.

    Raises:
        KeyError: no input has the symbol as its size.
    """
    for index, node in enumerate(graph.find_nodes(op="placeholder")):
        fake = node.meta.get("val")
        if isinstance(fake, torch.SymInt) and fake.node.expr == symbol:
            return index, None
        for dim, size in enumerate(fake.shape if isinstance(fake, Tensor) else ()):
            if isinstance(size, torch.SymInt) and size.node.expr == symbol:
                return index, dim
    raise KeyError(f"no input of the graph has {symbol} as a size")
