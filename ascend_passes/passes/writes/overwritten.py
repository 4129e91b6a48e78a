"""Proof that every element of a tensor is written before it is read.

Where sizes are numbers, the graph runs once more over masks: an element is True where it still is
what the tensor held at first. Operators that only move elements move the mask's elements alike; any
other reader must get none that is True. Where a size is symbolic, the written intervals of one
dimension must join from its start to its end.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import is_view, operator_name, same_size, value
from ascend_passes.ir.in_place import FUNCTIONALIZED
from ascend_passes.ir.proof import prove
from ascend_passes.ir.trace import not_faking
from ascend_passes.ir.traits import traits_of

aten = torch.ops.aten
LARGEST_MASK = 2**26
"""Elements of a tensor that is tried; a mask has one byte for each."""
WHOLE_WRITES = (aten.copy.default, aten.fill.Scalar, aten.fill.Tensor, aten.zero.default)
"""Operators that take shape and dtype of their first argument and none of its content."""
INDEXED_WRITES = (aten.index_copy.default, aten.index_put.default)
MOVES = (
    aten.slice_scatter.default,
    aten.select_scatter.default,
    aten.diagonal_scatter.default,
    aten.clone.default,
    aten.cat.default,
    aten.stack.default,
    aten._to_copy.default,
)
KNOWN_INDICES = (
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.view.default,
    aten.flip.default,
)
CREATION_KEYWORDS = {"dtype", "layout", "device", "pin_memory"}
INDEX_PUT_VALUES, ACCUMULATE = 1, 3
"""Positions among `index_put`'s arguments behind the target, and among all."""


def unwritten(start: fx.Node) -> str | None:
    """Why the first content of `start` matters; None where it is written before it is read."""
    shape = value(start).shape
    if not all(isinstance(size, int) for size in shape):
        return unjoined(start)
    if shape.numel() > LARGEST_MASK:
        return f"it has more than {LARGEST_MASK} elements, too many to follow"
    with not_faking():
        return follow(start, torch.ones(shape, dtype=torch.bool))


def follow(start: fx.Node, mask: Tensor) -> str | None:
    """`unwritten` for a tensor whose elements are followed one by one, from a mask of them."""
    masks: dict[fx.Node, Any] = {start: mask}
    nodes = iter(start.graph.nodes)
    for node in nodes:
        if node is start:
            break
    for node in nodes:
        if not any(source in masks for source in node.all_input_nodes):
            continue
        moved_mask = moved(node, masks)
        if moved_mask is None:
            if any(any_set(masks[n]) for n in node.all_input_nodes if n in masks):
                return unwritten_reader(node)
        elif any_set(moved_mask):
            masks[node] = moved_mask
    return None


def any_set(mask: Any) -> bool:
    """Whether a mask, or one of several, has an element that was not written."""
    return any(bool(part.any()) for part in torch.utils._pytree.tree_leaves(mask))


def unwritten_reader(node: fx.Node) -> str:
    """Who reads an element that was not written."""
    if node.op == "output":
        return "the graph returns elements that were not written"
    name = operator_name(node)
    if node.target in FUNCTIONALIZED:
        name = node.args[0]._schema.name  # type: ignore[union-attr]
    partial = traits_of(name).partial_writes
    return f"{name}: {partial}" if partial else f"{name} reads elements that were not written"


def moved(node: fx.Node, masks: dict[fx.Node, Any]) -> Any:
    """The mask of what a node gives; None where it does more than move elements."""
    if not sizes_are_numbers(node):
        return None
    if node.target is operator.getitem:
        return masks[node.args[0]][node.args[1]]  # type: ignore[index]
    if node.target in WHOLE_WRITES:
        return None if any(given in masks for given in node.args[1:]) else torch.zeros(())
    if node.target in INDEXED_WRITES:
        return after_indexed_write(node, masks)
    if node.target is aten._to_copy.default:
        return masks[node.args[0]]  # type: ignore[index]
    if node.target in MOVES or moves_elements(node):
        return call_on_masks(node, masks)
    return None


def moves_elements(node: fx.Node) -> bool:
    """Whether a node is a view that neither reads memory by offset nor splits elements."""
    if not is_view(node) or node.target is aten.as_strided.default:
        return False
    result, source = value(node), value(node.args[0])  # type: ignore[arg-type]
    return isinstance(result, (tuple, list)) or result.dtype == source.dtype


def sizes_are_numbers(node: fx.Node) -> bool:
    """Whether no symbolic size is involved in a node."""
    known = [value(n) for n in (node, *node.all_input_nodes)]
    leaves = torch.utils._pytree.tree_leaves(known)
    return all(
        isinstance(leaf, Tensor) and all(isinstance(size, int) for size in leaf.shape)
        for leaf in leaves
    )


def mask_of(node: fx.Node, masks: dict[fx.Node, Any]) -> Any:
    """A node's mask; nothing is unwritten in a tensor that does not come from the start."""
    if node in masks:
        return masks[node]
    return torch.zeros(value(node).shape, dtype=torch.bool)


def call_on_masks(node: fx.Node, masks: dict[fx.Node, Any]) -> Any:
    """The node's own operator, called on masks."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: mask_of(n, masks))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def after_indexed_write(node: fx.Node, masks: dict[fx.Node, Any]) -> Any:
    """The mask after an indexed write; an index that is not known counts as writing nothing."""
    target, *rest = node.args
    put = node.target is aten.index_put.default
    data = rest[INDEX_PUT_VALUES] if put else rest[-1]
    accumulates = put and len(node.args) > ACCUMULATE and node.args[ACCUMULATE]
    read = [source for source in node.all_input_nodes if source is not target]
    if accumulates or node.kwargs or any(source in masks for source in read):
        return None
    try:
        known = fx.node.map_arg(rest, lambda n: mask_of(n, masks) if n is data else known_index(n))
    except LookupError:
        return mask_of(target, masks)  # type: ignore[arg-type]
    return node.target(mask_of(target, masks), *known)  # type: ignore[operator, arg-type]


def known_index(node: fx.Node) -> Tensor:
    """The content of an index that is computed from numbers alone.

    Raises:
        LookupError: it is not.
    """
    if node.target not in KNOWN_INDICES or not node.kwargs.keys() <= CREATION_KEYWORDS:
        raise LookupError(node.name)
    args = fx.node.map_arg(node.args, known_index)
    kwargs = {key: item for key, item in node.kwargs.items() if key == "dtype"}
    result: Tensor = node.target(*args, **kwargs)
    return result


def unjoined(start: fx.Node) -> str | None:
    """`unwritten` for symbolic sizes: a chain of whole writes and slices along one dimension."""
    node, intervals, along = start, [], None
    while True:
        readers = [user for user in node.users if user.target is not aten.sym_size.int]
        for view in [n for n in readers if n.target is aten.slice.Tensor]:
            if all(
                user.target is aten.copy.default and user.args[0] is view for user in view.users
            ):
                readers.remove(view)  # a slice that is only copied into
        if not readers:
            return None
        if len(readers) > 1:
            return "it is used more than once, and its size is symbolic"
        (user,) = readers
        if user.target in WHOLE_WRITES and user.args[0] is node and user.args[1:] != (node,):
            return None
        if user.target is not aten.slice_scatter.default or user.args[0] is not node:
            return unwritten_reader(user)
        dim, first, last, step = slice_bounds(user)
        if step != 1 or along not in (None, dim) or user.args[1] is node:
            return "slices of several dimensions or with steps write it, and its size is symbolic"
        along = dim
        intervals.append((first, last))
        if reaches(intervals, value(start).shape[dim]):
            return None
        node = user


def slice_bounds(node: fx.Node) -> tuple[int, Any, Any, int]:
    """Dim, start, end and step of a slice_scatter; the end lies within the tensor."""
    names = ("dim", "start", "end", "step")
    given = dict(zip(names, node.args[2:], strict=False)) | dict(node.kwargs)
    dim = int(given.get("dim", 0)) % value(node).dim()  # type: ignore[arg-type]
    first, last = (
        value(item) if isinstance(item, fx.Node) else item
        for item in (given.get("start"), given.get("end"))
    )
    first = 0 if first is None else first
    size = value(node).shape[dim]
    if last is None or prove(last >= size):
        last = size
    return dim, first, last, int(given.get("step", 1))  # type: ignore[arg-type]


def reaches(intervals: list[tuple[Any, Any]], size: Any) -> bool:
    """Whether half-open intervals provably join from 0 to `size`."""
    reached: Any = 0
    left = list(intervals)
    while not same_size(reached, size):
        following = next(joined(left, reached), None)
        if following is None:
            return False
        left.remove(following)
        reached = following[1]
    return True


def joined(intervals: list[tuple[Any, Any]], reached: Any) -> Iterator[tuple[Any, Any]]:
    """The intervals that start at or before `reached` and end behind it."""
    for first, last in intervals:
        if prove(first >= 0) and prove(first <= reached) and prove(last >= reached):
            yield first, last
