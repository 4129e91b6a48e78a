"""A piece whose meaning is known, in the form in which it is replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import first, is_call, settled_size, value
from ascend_passes.meaning.answer import Answer
from ascend_passes.meaning.cone import Cone, tensor_of
from ascend_passes.meaning.vocabulary import CASTS, LAYOUT

aten = torch.ops.aten
VIEWS = (
    *(aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dim),
    *(aten.squeeze.dims, aten.permute.default, aten.transpose.int, aten.slice.Tensor),
    *(aten.select.int, aten.expand.default, aten.reshape.default, aten.squeeze.default),
)
LIMIT = "the operator gives the result alone"


@dataclass(frozen=True, eq=False)
class Finding:
    """A piece and its answer; a `Found` of the engine."""

    cone: Cone
    answer: Answer
    inputs: Mapping[str, fx.Node]
    nodes: tuple[fx.Node | None, ...]
    moves: Mapping[str, tuple[fx.Node, ...]]
    """Input -> the casts and views between it and the piece's source; the casts are left out."""
    limit: str = LIMIT

    @classmethod
    def of(cls, cone: Cone, answer: Answer) -> Finding:
        """The piece with its sources before they were widened, where the result is as narrow."""
        kind = value(cone.out).dtype
        inputs: dict[str, fx.Node] = {}
        moves: dict[str, tuple[fx.Node, ...]] = {}
        for name, slot in answer.inputs.items():
            chain = () if slot.leaf else widening(slot.node(cone), kind)
            inputs[name] = first(chain[0]) if chain else slot.node(cone)
            moves[name] = chain
        between = (node for chain in moves.values() for node in chain)
        return cls(cone, answer, inputs, tuple(sorted({*cone.nodes, *between})), moves)

    @property
    def name(self) -> str:
        """What a report counts: an operator on rows that were widened counts by another name, since
        it reads more than the model's own rows."""
        return self.answer.rule + ("_of_widened_rows" if self.is_wide else "")

    @property
    def is_wide(self) -> bool:
        """Whether the rows were widened for the operator."""
        return any(
            is_cast(slot.node(self.cone)) and not slot.leaf and not self.moves[name]
            for name, slot in self.answer.inputs.items()
        )

    @property
    def anchor(self) -> fx.Node:
        """The result."""
        return self.cone.out

    @property
    def outputs(self) -> tuple[fx.Node | None, ...]:
        """The results."""
        return (self.cone.out, *self.cone.others)

    @property
    def interior(self) -> Iterator[fx.Node]:
        """What is computed between, but for casts and views, which cost nothing beside the operator
        or are wanted by others anyway."""
        free = CASTS | LAYOUT
        return (
            node for node in self.cone.own if node not in self.outputs and node.target not in free
        )


def widening(node: fx.Node, kind: torch.dtype) -> tuple[fx.Node, ...]:
    """The casts and views, in order, that make a node of a value of the given dtype, with nothing
    lost between; none where it is not made so."""
    chain: list[fx.Node] = []
    while value(node).dtype != kind:
        if not is_cast(node) and not is_plain_view(node):
            return ()
        source = first(node)
        if torch.promote_types(value(source).dtype, value(node).dtype) != value(node).dtype:
            return ()
        chain.insert(0, node)
        node = source
    return tuple(chain)


def is_cast(node: fx.Node) -> bool:
    """Whether a node is another dtype of the value before it."""
    return is_call(node, *CASTS)


def is_plain_view(node: fx.Node) -> bool:
    """Whether a node is one tensor's values in another order or shape."""
    return node.op == "call_function" and node.target in VIEWS


def moved(tensor: Tensor, chain: Sequence[fx.Node]) -> Tensor:
    """A tensor through the views of a chain, without its casts."""
    for node in chain:
        if not is_cast(node):
            given = fx.map_arg((node.args[1:], node.kwargs), lambda item: settled_size(value(item)))
            tensor = node.target(tensor, *given[0], **given[1])  # type: ignore[operator]
    return tensor


def memory_order(node: fx.Node) -> tuple[int, ...]:
    """The dims of a result in the order in which they lie in memory; as they are where sizes do not
    tell."""
    fake = tensor_of(node)
    plain = tuple(range(fake.dim() if fake is not None else 0))
    if fake is None:
        return plain
    strides = [hint_of(stride) for stride in fake.stride()]
    sizes = [hint_of(size) for size in fake.shape]
    if None in strides or None in sizes:
        return plain
    moved = [dim for dim in plain if sizes[dim] != 1]
    by_stride = sorted(moved, key=lambda dim: -strides[dim])
    places = dict(zip(moved, by_stride, strict=True))
    order = tuple(places.get(dim, dim) for dim in plain)
    return order if order and order[-1] == plain[-1] else plain  # what works on rows needs rows


def hint_of(size: Any) -> int | None:
    """A size as a number: of now, where it is symbolic; None where nobody knows it."""
    if isinstance(size, int):
        return size
    return None if size.node.hint is None else int(size.node.hint)


def laid_out(finding: Finding) -> Any:
    """A function of the inputs, in the order of `finding.inputs`, that gives the result as the piece
    lays it out.

    Operators read and write rows in order; the piece's result may lie in another, as transposed
    heads do. What works row by row commutes with moving the rows, so the operator gets them as they
    lie.
    """
    answer = finding.answer
    order = memory_order(finding.cone.out)
    back = tuple(order.index(dim) for dim in range(len(order)))
    moves = order != tuple(range(len(order)))

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(finding.inputs, given, strict=True))
        for name, chain in finding.moves.items():
            named[name] = moved(named[name], chain)
        if answer.prepare is not None:
            named = dict(answer.prepare(**named, **answer.numbers))
        rows = [name for name in answer.rows if named[name].dim() == len(order)]
        for name in rows if moves else ():
            named[name] = named[name].permute(order)
        results = answer.build(**named, **answer.numbers)
        first_result, *others = results if isinstance(results, tuple) else (results,)
        if moves and first_result.dim() == len(order):
            first_result = first_result.permute(back)
        made = (first_result, *others)
        return tuple(map(as_noted, made, map(value, finding.outputs)))

    return function


def as_noted(result: Tensor, noted: Tensor) -> Tensor:
    """A result in the shape and dtype of the value that it stands for."""
    shape = tuple(settled_size(size) for size in noted.shape)
    if tuple(result.shape) != shape:
        result = result.reshape(shape)
    return result if result.dtype == noted.dtype else result.to(noted.dtype)
