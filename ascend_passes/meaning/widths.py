"""Widths that are symbols become numbers where operators must know them.

Under `dynamic=True` the size of a head is a symbol like that of a batch. Operators have limits on
widths, and a rotation pairs columns by their number; a model's widths stay as they are. So the
graph is compiled for them: torch guards the number, and another width compiles anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import value
from ascend_passes.meaning.cone import ancestors, fake_tensor
from ascend_passes.meaning.family import Recognizer


def settle_widths(graph: fx.Graph, families: Iterable[Recognizer]) -> tuple[str, ...]:
    """Make numbers of the widths along which the graph does what a family does.

    To be called while a compilation is under way that turns what is asked of sizes into guards.

    Returns:
        The symbols that are numbers now.
    """
    only_widths = widths_of(graph)
    if not only_widths:
        return ()
    anchors = {target: family.reach[0] for family in families for target in family.anchors}
    wanted: dict[Any, torch.SymInt] = {}
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in anchors:
            continue
        for near in (node, *ancestors(node, anchors[node.target])):
            wanted |= {
                s: only_widths[s] for s in symbols_of_width(fake_tensor(near)) if s in only_widths
            }
    for size in wanted.values():
        int(size)  # a guard
    return tuple(map(str, wanted))


def widths_of(graph: fx.Graph) -> dict[Any, torch.SymInt]:
    """The symbols that are last sizes of floating inputs, of two dims or more, and no other size of
    any input."""
    widths: dict[Any, torch.SymInt] = {}
    others: set[Any] = set()
    for node in graph.find_nodes(op="placeholder"):
        fake = value(node)
        if not isinstance(fake, Tensor):
            continue
        may_be = fake.dim() > 1 and (fake.dtype.is_floating_point or fake.dtype.is_complex)
        for dim, size in enumerate(fake.shape):
            if not isinstance(size, torch.SymInt):
                continue
            symbols = size.node.expr.free_symbols
            if may_be and dim == fake.dim() - 1 and len(symbols) == 1:
                widths |= dict.fromkeys(symbols, size)
            elif not (fake.dim() == 1 and fake.dtype.is_floating_point):  # a gain is one of columns
                others |= symbols
    return {symbol: size for symbol, size in widths.items() if symbol not in others}


def symbols_of_width(fake: Tensor | None) -> Iterator[Any]:
    """The symbols in a tensor's last size."""
    if fake is not None and fake.dim() and isinstance(fake.shape[-1], torch.SymInt):
        yield from fake.shape[-1].node.expr.free_symbols
