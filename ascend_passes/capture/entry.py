"""One captured size: its fixed memory and what is copied into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ascend_passes.capture.device import Graph
from ascend_passes.capture.layout import Layout
from ascend_passes.capture.results import Strided, has_separate_elements, narrowed, one_of
from ascend_passes.capture.symbols import evaluate


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
class EntryUse:
    """How calls of one shape use an entry."""

    entry: Entry
    layouts: tuple[Strided, ...] | None = None
    """How the results of the unpadded call lie; None where nothing was padded."""


def variant_of(
    layout: Layout, inputs: Sequence[Any], rows: int, entries: dict[Any, Entry]
) -> EntryUse:
    """The variant for calls of this shape, in the entry of its padded size."""
    bindings = layout.bindings(inputs)
    padded = bindings if layout.symbol is None else {**bindings, layout.symbol: rows}
    sizes = {index: evaluate(size, padded) for index, size in layout.sizes.items()}
    entry = entries.setdefault(tuple(sizes.values()), Entry(sizes))
    if padded == bindings:
        return EntryUse(entry)
    return EntryUse(entry, tuple(result.lies(bindings) for result in layout.results))


def copy_inputs(
    layout: Layout, entry: Entry, inputs: Sequence[Any], fills: Mapping[int, float]
) -> int:
    """Copy a call's inputs and numbers into the entry's memory; returns the inputs' bytes."""
    copied = 0
    for index, lifted in layout.lifted.items():
        entry.buffers.setdefault(index, lifted.tensor(0)).fill_(lifted.number(inputs))
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
    """Fixed memory for an input that lies in it as the input does, so that views of it do, too.

    An input of fewer rows than wanted gets rows without gaps, or one row for all along `dims`.
    """
    if tuple(wanted) == tuple(given.shape) and has_separate_elements(one_of(given, dims)):
        return torch.empty_strided(
            given.shape, given.stride(), dtype=given.dtype, device=given.device
        )
    size = [1 if dim in dims else length for dim, length in enumerate(wanted)]
    return given.new_empty(size).expand(tuple(wanted))


def graph_arguments(layout: Layout, entry: Entry, inputs: Sequence[Any]) -> list[Any]:
    """The graph's arguments: fixed memory, inputs used in place, numbers of the padded size."""
    given = [
        entry.buffers[index]
        if index in entry.buffers
        else given
        if isinstance(given, Tensor) or index not in entry.sizes
        else entry.sizes[index][0]
        for index, given in enumerate(inputs)
    ]
    return [*given, *(entry.buffers[index] for index in layout.lifted)]
