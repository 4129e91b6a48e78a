"""The nodes of sequence parallelism: pad, reduce_scatter, this rank's rows, all_gather, unpad.

Rows are dealt in blocks: of T rows, rank r of tp has rows r*R to r*R + R, R = ceil(T / tp). Where
tp may not divide T, zero rows are appended before a reduce_scatter and cut off after an all_gather.
Nodes are only added here; the graph computes what it did until a caller replaces uses.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.distributed.groups import Group
from ascend_passes.ir.graph import same_size, value
from ascend_passes.ir.trace import fake_mode_of, faking
from ascend_passes.passes.flashcomm.build import Build
from ascend_passes.passes.flashcomm.row_calls import Flat, LocalCall, RowsOf

aten = torch.ops.aten
Size = int | torch.SymInt


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one stream of hidden states: how many, and who deals them out."""

    group: Group
    dimensions: tuple[Size, ...]
    """The leading dimensions as the first collective has them: (T,) or (B, S)."""

    @property
    def count(self) -> Size:
        """T, the number of rows."""
        return math.prod(self.dimensions)

    @property
    def each(self) -> Size:
        """R, the rows of each rank, padding included."""
        return (self.count + self.group.size - 1) // self.group.size

    @property
    def exact(self) -> bool:
        """Whether tp provably divides T, so nothing is padded."""
        return same_size(self.each * self.group.size, self.count)

    def same(self, group: Group, count: Size) -> bool:
        """Whether another stream has provably the same rows on the same ranks."""
        return self.group == group and same_size(self.count, count)

    def holds(self, dimensions: Sequence[Size]) -> bool:
        """Whether a reshape to these leading dimensions can be written with the known sizes."""
        return len(unknown_sizes(self, dimensions)) <= 1


def unknown_sizes(rows: Rows, dimensions: Sequence[Size]) -> list[Size]:
    """The symbolic sizes among `dimensions` that are not dimensions of the stream."""
    known = (*rows.dimensions, rows.count)
    return [
        size
        for size in dimensions
        if not isinstance(size, int) and not any(same_size(size, other) for other in known)
    ]


def fake_empty(like: Tensor, shape: Sequence[Size]) -> Tensor:
    """A fake tensor of another shape, with the type and device of `like`."""
    with faking(fake_mode_of([like])):
        return like.new_empty(tuple(shape))


def prepare_sizes(build: Build, rows: Rows, source: fx.Node) -> None:
    """Nodes in front of `source` for the stream's sizes; plain numbers where they are static."""

    def size(name: str, target: Any, args: tuple[Any, ...], known: Size) -> fx.Node | int:
        made: fx.Node | int
        if isinstance(known, int):
            made = known
        else:
            made = known_size(build.graph, known, source) or build.known(known, target, *args)
        build.sizes[id(rows), name] = made
        return made

    tp, rank = rows.group.size, rows.group.rank
    with build.at(source):
        sym_size = aten.sym_size.int
        count: fx.Node | int = 1
        product: Size = 1
        for index, dimension in enumerate(rows.dimensions):
            one = size(f"dimension {index}", sym_size, (source_input(source), index), dimension)
            product = product * dimension
            count = size("count", operator.mul, (count, one), product) if index else one
        build.sizes[id(rows), "count"] = count
        total = size("total", operator.add, (count, tp - 1), rows.count + tp - 1)
        each = size("each", operator.floordiv, (total, tp), rows.each)
        padded = size("padded", operator.mul, (each, tp), rows.each * tp)
        size("pad", operator.sub, (padded, count), rows.each * tp - rows.count)
        size("start", operator.mul, (each, rank), rows.each * rank)
        size("end", operator.mul, (each, rank + 1), rows.each * (rank + 1))


def known_size(graph: fx.Graph, size: torch.SymInt, before: fx.Node) -> fx.Node | None:
    """A node in front of `before` that already has this size, such as an input."""
    earlier = itertools.takewhile(lambda node: node is not before, graph.nodes)
    sized: list[fx.Node] = [n for n in earlier if isinstance(value(n), torch.SymInt)]
    return next((node for node in sized if same_size(value(node), size)), None)


def source_input(source: fx.Node) -> fx.Node:
    """The partial sums that an all_reduce adds up; `source` is the call or the wait for it."""
    first = reduce_of(source).args[0]
    assert isinstance(first, fx.Node)
    return first


def reduce_of(source: fx.Node) -> fx.Node:
    """The all_reduce whose result a node gives: what it waits for, or itself."""
    call = source.args[0] if operator_is_wait(source) else source
    assert isinstance(call, fx.Node)
    return call


def operator_is_wait(node: fx.Node) -> bool:
    """Whether the node only waits for a collective."""
    return node.target is torch.ops._c10d_functional.wait_tensor.default


def flattened(build: Build, rows: Rows, node: fx.Node, lead: int) -> fx.Node:
    """`[*rows, ...] -> [T, ...]`."""
    if lead == 1:
        return node
    tail = value(node).shape[lead:]
    meta = fake_empty(value(node), (rows.count, *tail))
    return build.known(meta, aten.reshape.default, node, [-1, *tail])


def padded(build: Build, rows: Rows, node: fx.Node) -> fx.Node:
    """`[T, ...] -> [R * tp, ...]`, zero rows behind the last."""
    if rows.exact:
        return node
    tail = value(node).shape[1:]
    amount = [*([0, 0] * len(tail)), 0, build.sizes[id(rows), "pad"]]
    meta = fake_empty(value(node), (rows.each * rows.group.size, *tail))
    return build.known(meta, aten.constant_pad_nd.default, node, amount, 0)


def unpadded(build: Build, rows: Rows, node: fx.Node, like: Tensor, lead: int) -> fx.Node:
    """`[R * tp, ...] -> [*rows, ...]`, the padding cut off; the result has the shape of `like`."""
    tail = value(node).shape[1:]
    if not rows.exact:
        meta = fake_empty(value(node), (rows.count, *tail))
        count = build.sizes[id(rows), "count"]
        node = build.known(meta, aten.slice.Tensor, node, 0, 0, count, 1)
    if lead == 1:
        return node
    shape = [*written_sizes(build, rows, like.shape[:lead]), *tail]
    return build.known(fake_empty(like, like.shape), aten.reshape.default, node, shape)


def written_sizes(build: Build, rows: Rows, dimensions: Sequence[Size]) -> list[fx.Node | int]:
    """Leading dimensions as arguments of a reshape; the one size that is nowhere known is -1."""
    sizes: list[fx.Node | int] = []
    for dimension in dimensions:
        if isinstance(dimension, int):
            sizes.append(dimension)
            continue
        names = {f"dimension {index}": known for index, known in enumerate(rows.dimensions)}
        names["count"] = rows.count
        name = next((name for name, known in names.items() if same_size(known, dimension)), None)
        sizes.append(-1 if name is None else build.sizes[id(rows), name])
    return sizes


def scatter(build: Build, rows: Rows, source: fx.Node, partial: fx.Node) -> fx.Node:
    """This rank's rows of an all_reduce's result, from the partial sums, flat and padded."""
    with build.behind(source):
        meta = fake_empty(value(partial), (rows.each, *value(partial).shape[1:]))
        return rows.group.reduce_scatter(build, partial, meta)


def gather(build: Build, rows: Rows, node: fx.Node, lead: int) -> fx.Node:
    """All rows of `node`, from the ranks' local rows of it."""
    local = build.local[node]
    shape = (rows.each * rows.group.size, *value(local).shape[1:])
    with build.behind(node):
        meta = fake_empty(value(local), shape)
        whole = rows.group.all_gather(build, local, meta)
        build.padded[node, lead] = whole
        return unpadded(build, rows, whole, value(node), lead)


def chunk(build: Build, rows: Rows, node: fx.Node, lead: int) -> fx.Node:
    """This rank's rows of a value that every rank has whole."""
    flat = padded(build, rows, flattened(build, rows, node, lead))
    meta = fake_empty(value(flat), (rows.each, *value(flat).shape[1:]))
    start, end = build.sizes[id(rows), "start"], build.sizes[id(rows), "end"]
    return build.known(meta, aten.slice.Tensor, flat, 0, start, end, 1)


def local_node(
    build: Build, rows: Rows, node: fx.Node, call: LocalCall, whole: Mapping[fx.Node, fx.Node]
) -> fx.Node:
    """This rank's rows of `node`, computed by `call`.

    Operands in `whole` are chunked from their gathered value, others without local rows from
    themselves: both are replicated.
    """

    def operand(rows_of: RowsOf) -> fx.Node:
        if rows_of.node in build.local and rows_of.node not in whole:
            return build.local[rows_of.node]
        return chunk(build, rows, whole.get(rows_of.node, rows_of.node), rows_of.lead)

    with build.behind(node):
        return computed(build, node, call, rows.each, operand)


def computed(
    build: Build, node: fx.Node, call: LocalCall, count: Size, operand: Callable[[RowsOf], fx.Node]
) -> fx.Node:
    """`call` on `count` of the rows of `node`; `operand` gives those rows of what it reads."""

    def written(argument: Any) -> Any:
        if isinstance(argument, Flat):
            tail = value(argument.node).shape[value(argument.node).dim() - argument.dimensions :]
            meta = fake_empty(value(argument.node), tail)
            return build.known(meta, aten.reshape.default, argument.node, list(tail))
        return operand(argument) if isinstance(argument, RowsOf) else argument

    args, kwargs = fx.node.map_aggregate((call.args, dict(call.kwargs)), written)
    if call.target is None:
        return args[0]  # type: ignore[no-any-return]
    return build.known(some_rows(count, value(node), call.lead), call.target, *args, **kwargs)


def some_rows(count: Size, full: Any, lead: int) -> Any:
    """The fake value of `count` rows, from the fake value of all."""
    if isinstance(full, (tuple, list)):
        return tuple(some_rows(count, one, lead) for one in full)
    if not isinstance(full, Tensor) or full.dim() < lead:
        return full
    return fake_empty(full, (count, *full.shape[lead:]))
