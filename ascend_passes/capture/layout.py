"""How a graph's flat inputs are used by a capture: in place, copied, or part of the key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.capture.numbers import Lifted, counted_symbols, decider, lifted_inputs
from ascend_passes.capture.results import Result, results_of_graph
from ascend_passes.capture.symbols import (
    Number,
    expressions,
    free_symbols,
    is_tensor,
    known_symbols,
    symbol_of,
)
from ascend_passes.capture.update import updates
from ascend_passes.ir.graph import base, is_call, value, written

INDEX_DTYPES = (torch.int64, torch.int32)


@dataclass(frozen=True)
class Layout:
    """Positions are indices into the flat inputs, in the order of the graph's placeholders.

    Inputs that nothing reads, such as weights folded into others, are in no list.
    """

    in_place: frozenset[int]
    """Parameters, buffers and whatever the graph writes: used where they are, never copied."""
    written: frozenset[int]
    sizes: Mapping[int, tuple[Any, ...]]
    """Inputs whose value (numbers) or shape (tensors) decides which graph is replayed, with
    its traced expressions: one for a number, all sizes of a tensor."""
    counted: Mapping[int, fx.Node]
    """Those numbers that are no size of a tensor, and the node that each decides."""
    lifted: Mapping[int, Lifted]
    """The last inputs, which a call does not give."""
    copied: tuple[int, ...]
    """Tensors that are copied into fixed memory before each replay."""
    expanded: Mapping[int, tuple[int, ...]]
    """Copied input -> its dimensions of stride 0, along which all is one: an executor may check
    that it is called with the strides that it was compiled for."""
    tokens: int | None
    """The token ids, `[sequences, query length]` or `[tokens]`; None where nothing looks so."""
    symbol: Any
    """The symbol of the token ids' first dimension; None where it is a number."""
    symbols: Mapping[Any, tuple[int, int | None]]
    """Symbol -> the input and dimension that give its value."""
    results: tuple[Result, ...]
    updates: tuple[Mapping[str, tuple[Number, ...]], ...]
    """For each attention operator with host-side lists, name -> its numbers."""

    @classmethod
    def of(cls, gm: fx.GraphModule, static: Collection[int] = ()) -> Layout:
        """The layout of an inference graph.

        Args:
            gm: AOTAutograd's calling convention; placeholders carry `meta["val"]`.
            static: positions of parameters and buffers.
        """
        inputs = gm.graph.find_nodes(op="placeholder")
        position = {node: index for index, node in enumerate(inputs)}
        changed = frozenset(
            position[root]
            for node in gm.graph.nodes
            for argument in written(node)
            if (root := base(argument)) in position
        )
        used = frozenset(index for node, index in position.items() if node.users)
        in_place = (frozenset(static) | changed) & used
        numbers = lifted_inputs(inputs)
        copied = tuple(i for i in sorted(used - in_place - set(numbers)) if is_tensor(inputs[i]))
        ids = token_input(gm.graph, inputs, frozenset(static) - changed)
        counted = counted_symbols(inputs)
        decided = {
            i: decider(node)
            for i, node in enumerate(inputs)
            if not is_tensor(node) and symbol_of(value(node)) in counted
        }
        return cls(
            in_place=in_place,
            written=changed,
            sizes={
                i: sizes_of(node)
                for i, node in enumerate(inputs)
                if varies(node) and decided.get(i, node) is not None
            },
            counted={i: node for i, node in decided.items() if node is not None},
            lifted=numbers,
            copied=copied,
            expanded={i: dims for i in copied if (dims := expanded_dims(value(inputs[i])))},
            tokens=ids,
            symbol=symbol_of(value(inputs[ids]).shape[0]) if ids is not None else None,
            symbols=known_symbols(inputs),
            results=results_of_graph(gm.graph, position),
            updates=tuple(updates(gm.graph)),
        )

    def paddable(self) -> bool:
        """Whether rows can be added.

        No input that is used in place has the token dimension, and the sizes of the inputs tell how
        every result lies.
        """
        if self.symbol is None:
            return False
        sizes = [size for index in self.in_place for size in self.sizes.get(index, ())]
        told = [size for result in self.results for size in (*result.stride, result.offset)]
        return not any(depends(size, self.symbol) for size in sizes) and all(
            free_symbols(size) <= self.symbols.keys() for size in told
        )

    def key(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """What decides the graph at a call."""
        return tuple(
            tuple(given.shape) if isinstance(given := inputs[index], Tensor) else (given,)
            for index in self.sizes
        )

    def size_of(self, inputs: Sequence[Any]) -> tuple[int, int]:
        """(tokens, query length) of a call; the query length of flat ids is 0, unknown.

        Raises:
            LookupError: no input looks like token ids.
        """
        if self.tokens is None:
            raise LookupError("no input looks like token ids")
        ids = inputs[self.tokens]
        return ids.shape.numel() if ids.dim() < 3 else ids.shape[:2].numel(), query_length(ids)

    def bindings(self, inputs: Sequence[Any]) -> dict[Any, int]:
        """The values of all symbols at a call."""
        return {
            symbol: inputs[index] if dim is None else inputs[index].shape[dim]
            for symbol, (index, dim) in self.symbols.items()
        }


def query_length(ids: Tensor) -> int:
    """Tokens of each sequence, 0 where the ids are flat."""
    return int(ids.shape[1]) if ids.dim() > 1 else 0


def token_input(graph: fx.Graph, inputs: Sequence[fx.Node], static: Collection[int]) -> int | None:
    """The position of the token ids.

    What indexes the embedding, else the first integer input of one or two dimensions, else the
    first three-dimensional floating-point input, an embedded prompt.
    """
    candidates = {node: i for i, node in enumerate(inputs) if is_tensor(node) and i not in static}
    for node in graph.nodes:
        if is_call(node, torch.ops.aten.embedding.default):
            found = base(node.args[1])
            if found in candidates:
                return candidates[found]
    for node, index in candidates.items():
        if value(node).dtype in INDEX_DTYPES and value(node).dim() in (1, 2):
            return index
    embedded = (
        i for n, i in candidates.items() if value(n).dim() == 3 and value(n).is_floating_point()
    )
    return next(embedded, None)


def expanded_dims(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions of stride 0 along which there is more than one element."""
    return tuple(
        dim
        for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))
        if isinstance(stride, int) and stride == 0 and not (isinstance(size, int) and size == 1)
    )


def varies(node: fx.Node) -> bool:
    """Whether an input is a number or has a size that is a symbol."""
    if not is_tensor(node):
        return True
    return any(isinstance(size, torch.SymInt) for size in value(node).shape)


def sizes_of(node: fx.Node) -> tuple[Any, ...]:
    """The sizes of a tensor, or the one number that another input is, as traced."""
    return expressions(value(node).shape if is_tensor(node) else (value(node),))


def depends(size: Any, symbol: Any) -> bool:
    """Whether a traced size contains the symbol."""
    return symbol in getattr(size, "free_symbols", ())
