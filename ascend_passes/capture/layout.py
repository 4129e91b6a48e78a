"""How a graph's flat inputs are used by a capture: in place, copied, or part of the key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.capture.update import updated_only, updates
from ascend_passes.graph import base, is_call, value, written

INDEX_DTYPES = (torch.int64, torch.int32)


@dataclass(frozen=True)
class Result:
    """One output of the graph."""

    position: int | None = None
    """The input that is handed back, where the output is an input used in place."""
    size: tuple[Any, ...] = ()
    """Sizes of a tensor, or the one number of a size output, as traced."""
    tensor: bool = True


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
    updates: tuple[Mapping[str, tuple[int, ...]], ...]
    """For each attention operator with host-side lists, name -> positions of its numbers."""

    @classmethod
    def of(cls, gm: fx.GraphModule, static: Collection[int] = ()) -> Layout:
        """The layout of an inference graph.

        Args:
            gm: AOTAutograd's calling convention; placeholders carry `meta["val"]`.
            static: positions of parameters and buffers.
        """
        inputs = [node for node in gm.graph.nodes if node.op == "placeholder"]
        position = {node: index for index, node in enumerate(inputs)}
        changed = frozenset(
            position[root]
            for node in gm.graph.nodes
            for argument in written(node)
            if (root := base(argument)) in position
        )
        used = frozenset(index for node, index in position.items() if node.users)
        in_place = (frozenset(static) | changed) & used
        copied = tuple(i for i in sorted(used - in_place) if is_tensor(inputs[i]))
        only_updated = {position[node] for node in inputs if node.name in updated_only(gm.graph)}
        ids = token_input(gm.graph, inputs, frozenset(static) - changed)
        symbol = symbol_of(value(inputs[ids]).shape[0]) if ids is not None else None
        symbols = known_symbols(inputs)
        return cls(
            in_place=in_place,
            written=changed,
            sizes={
                i: expressions(node)
                for i, node in enumerate(inputs)
                if varies(node) and i not in only_updated
            },
            copied=copied,
            expanded={i: dims for i in copied if (dims := expanded_dims(value(inputs[i])))},
            tokens=ids,
            symbol=symbol,
            symbols=symbols,
            results=tuple(results(gm.graph, position, in_place)),
            updates=tuple(numbers(found, position) for found in updates(gm.graph)),
        )

    def paddable(self) -> bool:
        """Whether rows can be added: no input that is used in place has the token dimension."""
        return self.symbol is not None and not any(
            depends(size, self.symbol)
            for index in self.in_place
            for size in self.sizes.get(index, ())
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


def is_tensor(node: fx.Node) -> bool:
    """Whether the node's value is a tensor."""
    return isinstance(value(node), Tensor)


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


def symbol_of(size: Any) -> Any:
    """The symbol that a size is; None for numbers and composed expressions."""
    expression = expression_of(size)
    return expression if getattr(expression, "is_symbol", False) else None


def expression_of(size: Any) -> Any:
    """The sympy expression of a SymInt, other sizes as they are."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def expressions(node: fx.Node) -> tuple[Any, ...]:
    """The sizes of a tensor, or the one number that another input is, as traced."""
    return tuple(map(expression_of, value(node).shape if is_tensor(node) else (value(node),)))


def depends(size: Any, symbol: Any) -> bool:
    """Whether a traced size contains the symbol."""
    return symbol in getattr(size, "free_symbols", ())


def evaluate(sizes: Sequence[Any], bindings: Mapping[Any, int]) -> tuple[Any, ...]:
    """Traced sizes as numbers, for these values of the symbols."""
    return tuple(int(size.subs(bindings)) if hasattr(size, "subs") else size for size in sizes)


def known_symbols(inputs: Sequence[fx.Node]) -> dict[Any, tuple[int, int | None]]:
    """Where each symbol's value can be read at a call."""
    found: dict[Any, tuple[int, int | None]] = {}
    for index, node in enumerate(inputs):
        sizes = enumerate(value(node).shape) if is_tensor(node) else [(None, value(node))]
        for dim, size in sizes:
            symbol = symbol_of(size)
            if symbol is not None:
                found.setdefault(symbol, (index, dim))
    return found


def results(
    graph: fx.Graph, position: Mapping[fx.Node, int], in_place: Collection[int]
) -> list[Result]:
    """What the outputs are, in order."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    given = output.args[0]
    nodes = given if isinstance(given, (list, tuple)) else (given,)
    found = []
    for node in nodes:
        if position.get(node, -1) in in_place:
            found.append(Result(position=position[node]))
        elif isinstance(node, fx.Node) and is_tensor(node):
            found.append(Result(size=expressions(node)))
        else:
            size = expressions(node) if isinstance(node, fx.Node) else (node,)
            found.append(Result(size=size, tensor=False))
    return found


def numbers(
    found: Mapping[str, tuple[Any, ...]], position: Mapping[fx.Node, int]
) -> dict[str, tuple[int, ...]]:
    """The lists that consist of inputs alone, as positions."""
    return {
        name: tuple(position[entry] for entry in entries)
        for name, entries in found.items()
        if entries and all(entry in position for entry in entries)
    }
