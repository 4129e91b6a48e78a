"""How many tokens a call of a graph has, read off its inputs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.cost.model import matmul_rows
from ascend_passes.ir.graph import is_call, value
from ascend_passes.ir.traced_sizes import size_of_inputs


def token_counter(graph: fx.Graph) -> Callable[[Sequence[Any]], int]:
    """A function from a call's inputs to its token count: the rows that the embedding looks up.

    A graph without an embedding, such as a later part of a pipeline, counts the rows of its first
    matmul; one without either those of its first input with a symbolic size.
    """
    for count in row_counts(graph):
        if isinstance(count, int):
            return functools.partial(fixed, count)
        with contextlib.suppress(KeyError):  # the rows are not read off an input
            return size_of_inputs(count, graph)
    return functools.partial(fixed, 1)


def row_counts(graph: fx.Graph) -> Iterator[int | torch.SymInt]:
    """What may be a graph's token count, the most telling first."""
    lookups = [node for node in graph.nodes if is_call(node, torch.ops.aten.embedding.default)]
    if lookups:
        yield value(lookups[0].args[1]).numel()
    rows = matmul_rows(graph)
    if rows is not None:
        yield rows
    for node in graph.find_nodes(op="placeholder"):
        fake = value(node)
        sizes: Sequence[Any] = fake.shape if isinstance(fake, Tensor) else ()
        if any(isinstance(size, torch.SymInt) for size in sizes):
            yield sizes[0] if len(sizes) < 3 else sizes[0] * sizes[1]


def fixed(count: int, inputs: Sequence[Any]) -> int:
    """The token count of a graph that has one only."""
    return count
