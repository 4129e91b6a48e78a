"""A piece whose meaning is known, in the form in which it is replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import first, is_call, settled_size, value
from ascend_passes.meaning.answer import Answer
from ascend_passes.meaning.cone import Cone, fake_tensor, is_widening
from ascend_passes.meaning.vocabulary import CASTS, LAYOUT

aten = torch.ops.aten
OF_WIDENED_ROWS = "_of_widened_rows"
"""What the name of a recognition goes on with where its rows were widened for the operator."""
VIEWS = (
    *(aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dim),
    *(aten.squeeze.dims, aten.permute.default, aten.transpose.int, aten.slice.Tensor),
    *(aten.select.int, aten.expand.default, aten.reshape.default, aten.squeeze.default),
)
LIMIT = "the operator gives the result alone"


@dataclass(frozen=True, eq=False)
class Source:
    """Where an input of the operator comes from: one value, or the sum of two."""

    parts: tuple[fx.Node, ...]
    """The values, as narrow as the result where they were only widened."""
    chains: tuple[tuple[fx.Node, ...], ...]
    """For each, the casts and views between it and the piece; the casts are left out."""
    total: fx.Node | None = None
    """The wide sum of both."""

    @classmethod
    def of(cls, node: fx.Node, kind: torch.dtype, sums: bool) -> Source:
        """A piece's source before it was widened: a value of the given dtype, or, where `sums`, the
        sum of two, which a kernel of that dtype rounds before it goes on."""
        if value(node).dtype == kind:
            return cls((node,), ((),))
        chain = widening(node, kind)
        if chain:
            return cls((first(chain[0]),), (chain,))
        terms = summands(node) if sums else ()
        chains = tuple(widening(term, kind) for term in terms)
        narrow = [
            first(chain[0]) if chain else term for term, chain in zip(terms, chains, strict=True)
        ]
        if terms and all(value(term).dtype == kind for term in narrow):
            return cls(tuple(narrow), chains, node)
        return cls((node,), ((),))

    @property
    def between(self) -> Iterator[fx.Node]:
        """The nodes that are left out."""
        yield from (node for chain in self.chains for node in chain)
        if self.total is not None:
            yield self.total

    def value_of(self, parts: Sequence[Tensor]) -> Tensor:
        """The input from values of the parts."""
        made = [through_views(part, chain) for part, chain in zip(parts, self.chains, strict=True)]
        return made[0] if len(made) == 1 else made[0] + made[1]


def summands(node: fx.Node) -> tuple[fx.Node, ...]:
    """The two terms of a plain sum of tensors of one shape; none of another value."""
    if not is_call(node, aten.add.Tensor) or len(node.args) != 2 or node.kwargs:
        return ()
    terms = tuple(term for term in node.args if isinstance(term, fx.Node))
    shapes = {tuple(map(str, value(term).shape)) for term in (node, *terms)}
    return terms if len(terms) == 2 and len(shapes) == 1 else ()


@dataclass(frozen=True, eq=False)
class FoundPiece:
    """A piece and its answer; a `Found` of the engine."""

    cone: Cone
    answer: Answer
    sources: Mapping[str, Source]
    """Input of the operator -> where it comes from."""
    rounded: tuple[fx.Node, ...] = ()
    """Values that are the wide sum in the dtype of the result: what the operator reads."""
    shares: bool = False
    """Whether values inside may have other users."""
    limit: str = LIMIT

    @classmethod
    def of(cls, cone: Cone, answer: Answer, shares: bool, sums: bool) -> FoundPiece:
        """The piece with its sources before they were widened, where the result is as narrow."""
        kind = value(cone.out).dtype
        sources = {
            name: Source((slot.node(cone),), ((),))
            if slot.leaf
            else Source.of(slot.node(cone), kind, sums)
            for name, slot in answer.inputs.items()
        }
        totals = [source.total for source in sources.values() if source.total is not None]
        rounded = [
            user
            for total in totals
            for user in total.users
            if is_cast(user) and user not in cone.own and value(user).dtype == kind
        ]
        return cls(cone, answer, sources, tuple(rounded), shares)

    @cached_property
    def inputs(self) -> dict[str, fx.Node]:
        """What the operator, or the sum in front of it, reads."""
        return {
            f"{name}:{index}" if index else name: part
            for name, source in self.sources.items()
            for index, part in enumerate(source.parts)
        }

    @cached_property
    def nodes(self) -> tuple[fx.Node | None, ...]:
        """All that computes the results."""
        between = (node for source in self.sources.values() for node in source.between)
        return tuple(sorted({*self.cone.nodes, *between, *self.rounded}))

    @property
    def note(self) -> str:
        """Where the operator's value differs from the spelling's."""
        notes = [self.answer.note]
        if any(source.total is not None for source in self.sources.values()):
            notes.append("the sum in front is rounded before the norm")
        return "; ".join(filter(None, notes))

    @property
    def name(self) -> str:
        """What a report counts: an operator on rows that were widened counts by another name, since
        it reads more than the model's own rows."""
        return self.answer.rule + (OF_WIDENED_ROWS if self.is_wide else "")

    @property
    def is_wide(self) -> bool:
        """Whether the rows were widened for the operator."""
        read = (slot.node(self.cone) for slot in self.answer.inputs.values() if not slot.leaf)
        return any(
            is_cast(node) and is_widening(node) and node in self.inputs.values() for node in read
        )

    @property
    def anchor(self) -> fx.Node:
        """The result."""
        return self.cone.out

    @property
    def outputs(self) -> tuple[fx.Node | None, ...]:
        """The results."""
        return (self.cone.out, *self.cone.others, *self.rounded)

    @property
    def interior(self) -> Iterator[fx.Node]:
        """What is computed between; not the casts and views of what is read, which cost nothing
        beside the operator or are wanted by others anyway."""
        if self.shares:
            return
        computed: set[fx.Node] = set()
        for node in sorted(self.cone.own):
            moves = node.target in CASTS | LAYOUT
            if not moves or any(given in computed for given in node.all_input_nodes):
                computed.add(node)
        yield from (node for node in sorted(computed) if node not in self.outputs)


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


def through_views(tensor: Tensor, chain: Sequence[fx.Node]) -> Tensor:
    """A tensor through the views of a chain, without its casts."""
    for node in chain:
        if not is_cast(node):
            given = fx.map_arg((node.args[1:], node.kwargs), lambda item: settled_size(value(item)))
            tensor = node.target(tensor, *given[0], **given[1])  # type: ignore[operator]
    return tensor


def memory_order(node: fx.Node) -> tuple[int, ...]:
    """The dims of a result in the order in which they lie in memory, but the last where it is: what
    works on rows needs rows. As they are where sizes do not tell."""
    fake = fake_tensor(node)
    plain = tuple(range(fake.dim() if fake is not None else 0))
    order = plain if fake is None else stride_order(fake)
    return order if order and order[-1] == plain[-1] else plain


def stride_order(tensor: Tensor) -> tuple[int, ...]:
    """The dims of a tensor from the largest stride to the smallest; as they are where sizes do not
    tell. Dims of size 1 as well: one token of transposed heads lies as several do."""
    plain = tuple(range(tensor.dim()))
    hints = [hinted_size(stride) for stride in tensor.stride()]
    if None in hints:
        return plain
    strides = [stride or 0 for stride in hints]
    return tuple(sorted(plain, key=lambda dim: -strides[dim]))


def rows_order(finding: FoundPiece) -> tuple[int, ...]:
    """The order in memory of a result, or of its rows where dims of size 1 leave both open: one
    token of transposed heads lies as several do."""
    order, answer = memory_order(finding.cone.out), finding.answer
    sizes = [hinted_size(size) for size in value(finding.cone.out).shape]
    if not answer.rows or order != tuple(range(len(order))):
        return order
    rows = answer.inputs[answer.rows[0]].node(finding.cone)
    other = memory_order(rows)
    large = [dim for dim in other if dim < len(sizes) and sizes[dim] != 1]
    alike = tuple(map(str, value(rows).shape)) == tuple(map(str, value(finding.cone.out).shape))
    return other if alike and large == sorted(large) else order


def hinted_size(size: Any) -> int | None:
    """A size as a number: of now, where it is symbolic; None where nobody knows it."""
    if isinstance(size, int):
        return size
    return None if size.node.hint is None else int(size.node.hint)


def laid_out(finding: FoundPiece) -> Any:
    """A function of the inputs, in the order of `finding.inputs`, that gives the results as the
    piece lays them out.

    Operators read and write rows in order; the piece's result may lie in another, as transposed
    heads do. What works row by row commutes with moving the rows, so the operator gets them as they
    lie.
    """
    answer = finding.answer
    order = rows_order(finding)
    back = tuple(order.index(dim) for dim in range(len(order)))
    moves = order != tuple(range(len(order)))

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        held = iter(given)
        named = {
            name: source.value_of([next(held) for _ in source.parts])
            for name, source in finding.sources.items()
        }
        sums = [named[name] for name, source in finding.sources.items() if source.total]
        if answer.prepare is not None:
            named = dict(answer.prepare(**named, **answer.numbers))
        rows = [name for name in answer.rows if named[name].dim() == len(order)]
        for name in rows if moves else ():
            named[name] = named[name].permute(order)
        results = answer.build(**named, **answer.numbers)
        first_result, *others = results if isinstance(results, tuple) else (results,)
        if moves and first_result.dim() == len(order):
            first_result = first_result.permute(back)
        made = (first_result, *others, *(sums[0] for _ in finding.rounded))
        noted = (value(node) for node in finding.outputs if node is not None)
        return tuple(map(as_noted, made, noted))

    return function


def as_noted(result: Tensor, noted: Tensor) -> Tensor:
    """A result in the shape and dtype of the value that it stands for; copied where that one's rows
    do not lie together, as those of a convolution's result."""
    shape = tuple(settled_size(size) for size in noted.shape)
    if tuple(result.shape) != shape:
        result = result.reshape(shape)
    order = stride_order(noted)
    if order and order[-1] != len(order) - 1 and hinted_size(noted.shape[-1]) != 1:
        back = tuple(order.index(dim) for dim in range(len(order)))
        result = result.permute(order).contiguous().permute(back)
    return result if result.dtype == noted.dtype else result.to(noted.dtype)
