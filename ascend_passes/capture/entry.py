"""One captured size: its fixed memory, what is copied into it and what is handed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ascend_passes.capture.device import Graph
from ascend_passes.capture.layout import Layout, evaluate


@dataclass
class Entry:
    """A graph with its inputs and outputs; the graph comes with the second call of the size."""

    sizes: Mapping[int, tuple[Any, ...]]
    """Input -> its sizes, or its one number, in this graph."""
    addresses: tuple[int, ...] | None = None
    """Where the inputs used in place were at the last warm-up or capture; None before the first."""
    buffers: dict[int, Tensor] = field(default_factory=dict)
    graph: Graph | None = None
    outputs: Sequence[Any] = ()
    replays: int = 0
    """Of the present graph."""
    wasted: int = 0
    """Graphs that were given up after hardly a replay, because an input had moved."""


@dataclass(frozen=True)
class Variant:
    """How calls of one shape use an entry."""

    entry: Entry
    results: tuple[tuple[Any, ...], ...] | None = None
    """Sizes of the results of the unpadded call; None where nothing was padded."""


def variant_of(
    layout: Layout, inputs: Sequence[Any], rows: int, entries: dict[Any, Entry]
) -> Variant:
    """The variant for calls of this shape, in the entry of its padded size."""
    bindings = layout.bindings(inputs)
    padded = bindings if layout.symbol is None else {**bindings, layout.symbol: rows}
    sizes = {index: evaluate(size, padded) for index, size in layout.sizes.items()}
    entry = entries.setdefault(tuple(sizes.values()), Entry(sizes))
    if padded == bindings:
        return Variant(entry)
    return Variant(entry, tuple(evaluate(result.size, bindings) for result in layout.results))


def load(layout: Layout, entry: Entry, inputs: Sequence[Any], fills: Mapping[int, float]) -> int:
    """Copy a call's inputs into the entry's memory; returns the number of bytes."""
    copied = 0
    for index in layout.copied:
        given, dims = inputs[index], layout.expanded.get(index, ())
        buffer = entry.buffers.get(index)
        if buffer is None:
            buffer = new_buffer(given, entry.sizes.get(index, given.shape), dims)
            entry.buffers[index] = buffer
        if any(given.stride(dim) for dim in dims if given.shape[dim] > 1):
            raise ValueError(
                f"input {index} was traced with one row for all along its dimensions {list(dims)} "
                "and is called with different rows; compile it again for such an input"
            )
        if buffer.shape != given.shape:
            one_of(buffer, dims).fill_(fills.get(index, 0))
        one_of(narrowed(buffer, given.shape), dims).copy_(one_of(given, dims))
        copied += given.numel() * given.element_size()
    return copied


def new_buffer(given: Tensor, wanted: Sequence[int], dims: Sequence[int]) -> Tensor:
    """Fixed memory for an input; along `dims` it is one row for all, as the input is."""
    single = one_of(given, dims)
    size = [1 if dim in dims else length for dim, length in enumerate(wanted)]
    same = tuple(size) == tuple(single.shape)
    memory = torch.empty_like(single) if same else single.new_empty(size)
    return memory.expand(tuple(wanted)) if dims else memory


def one_of(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """The first element along each of these dimensions, which stay."""
    for dim in dims:
        tensor = tensor.narrow(dim, 0, 1)
    return tensor


def arguments(entry: Entry, inputs: Sequence[Any]) -> list[Any]:
    """The graph's arguments: fixed memory, inputs used in place, numbers of the padded size."""
    return [
        entry.buffers[index]
        if index in entry.buffers
        else given
        if isinstance(given, Tensor) or index not in entry.sizes
        else entry.sizes[index][0]
        for index, given in enumerate(inputs)
    ]


def hand_out(
    layout: Layout, variant: Variant, outputs: Sequence[Any], inputs: Sequence[Any], copy: bool
) -> tuple[list[Any], int]:
    """The results of the unpadded call, and the bytes copied out of the graph's memory."""
    handed: list[Any] = []
    copied = 0
    for index, (result, output) in enumerate(zip(layout.results, outputs, strict=True)):
        if result.position is not None:
            handed.append(inputs[result.position])
            continue
        if variant.results is not None:
            size = variant.results[index]
            output = narrowed(output, size) if result.tensor else size[0]
        if isinstance(output, Tensor) and copy:
            output = output.clone()
            copied += output.numel() * output.element_size()
        handed.append(output)
    return handed, copied


def narrowed(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """The first rows of each dimension."""
    for dim, length in enumerate(size):
        if tensor.shape[dim] != length:
            tensor = tensor.narrow(dim, 0, length)
    return tensor
