"""What a call hands out: copies that lie as the graph's results do, the caller's own tensors, and
numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.capture.symbols import (
    Number,
    evaluate,
    expression_of,
    expressions,
    is_tensor,
    source_of_number,
)
from ascend_passes.ir.content import storage_address
from ascend_passes.ir.graph import base, value

Strided = tuple[Sequence[int], Sequence[int], int]
"""Size, stride and offset, in elements, of a tensor in its memory."""


@dataclass(frozen=True)
class Result:
    """One output of the graph."""

    tensor: bool = True
    position: int | None = None
    """The input that is handed back, where the output is an input."""
    root: int | None = None
    """The input in whose memory the output may lie."""
    size: tuple[Any, ...] = ()
    """Of a tensor, as traced; stride and offset likewise."""
    stride: tuple[Any, ...] = ()
    offset: Any = 0
    number: Number | None = None
    """How an integer follows from the call's inputs."""

    def lies(self, bindings: Mapping[Any, int]) -> Strided:
        """Where the result lies for these values of the symbols."""
        (offset,) = evaluate((self.offset,), bindings)
        return evaluate(self.size, bindings), evaluate(self.stride, bindings), offset


def results_of_graph(graph: fx.Graph, position: Mapping[fx.Node, int]) -> tuple[Result, ...]:
    """What the outputs are, in order."""
    given = graph.output_node().args[0]
    nodes = given if isinstance(given, (list, tuple)) else (given,)
    return tuple(output_of(node, graph, position) for node in nodes)


def output_of(node: Any, graph: fx.Graph, position: Mapping[fx.Node, int]) -> Result:
    """What one output is."""
    if not isinstance(node, fx.Node) or not is_tensor(node):
        return Result(tensor=False, number=source_of_number(node, graph))
    fake = value(node)
    return Result(
        position=position.get(node),
        root=position.get(base(node)),
        size=expressions(fake.shape),
        stride=expressions(fake.stride()),
        offset=expression_of(fake.storage_offset()),
    )


def hand_out(
    results: Sequence[Result],
    outputs: Sequence[Any],
    inputs: Sequence[Any],
    buffers: Mapping[int, Tensor],
    layouts: Sequence[Strided] | None,
    copy: bool,
) -> tuple[list[Any], int]:
    """The results of a call, and the bytes copied out of the graph's memory.

    Args:
        results: what the outputs are.
        outputs: in the graph's memory, or as an uncaptured run returned them.
        inputs: of the call.
        buffers: the graph's own memory for some of the inputs.
        layouts: how the results lie where rows were added; None for as the outputs do.
        copy: whether what is the graph's own is copied.
    """
    handed: list[Any] = []
    own: dict[int, Tensor] = {}
    for index, (result, output) in enumerate(zip(results, outputs, strict=True)):
        if result.position is not None:
            output = inputs[result.position]
        elif result.number is not None:
            output = result.number(inputs)
        elif isinstance(output, Tensor):
            seen = seen_in_input(result, output, inputs, buffers) if layouts is None else None
            if seen is None:
                own[index] = output
            output = seen
        handed.append(output)
    for index, tensor in (copies(own, layouts) if copy else cut(own, layouts)).items():
        handed[index] = tensor
    return handed, sum(t.numel() * t.element_size() for t in own.values()) if copy else 0


def seen_in_input(
    result: Result, output: Tensor, inputs: Sequence[Any], buffers: Mapping[int, Tensor]
) -> Tensor | None:
    """The output as a view of the caller's tensor; None where it does not lie in an input."""
    if result.root is None:
        return None
    given, buffer = inputs[result.root], buffers.get(result.root)
    if storage_address(output) != storage_address(given if buffer is None else buffer):
        return None
    if buffer is None:
        return torch.ops.aten.alias.default(output)  # type: ignore[no-any-return]
    alike = given.shape == buffer.shape and given.stride() == buffer.stride()
    if not alike or given.dtype != output.dtype:
        return None
    offset = int(given.storage_offset() - buffer.storage_offset() + output.storage_offset())
    return given.as_strided(output.shape, output.stride(), offset)  # type: ignore[no-any-return]


def cut(own: Mapping[int, Tensor], layouts: Sequence[Strided] | None) -> dict[int, Tensor]:
    """The outputs without the rows that were added."""
    return {i: narrowed(tensor, layouts[i][0]) if layouts else tensor for i, tensor in own.items()}


def copies(own: Mapping[int, Tensor], layouts: Sequence[Strided] | None) -> dict[int, Tensor]:
    """New memory with the content of the outputs, which lie in it as `layouts` says.

    Outputs that share memory share the new one, and one that is returned twice is one tensor again;
    no others do.
    """
    first: dict[int, int] = {}
    same = {index: first.setdefault(id(tensor), index) for index, tensor in own.items()}
    distinct = {index: own[index] for index in first.values()}
    places = {i: layouts[i] if layouts else strided_place(tensor) for i, tensor in distinct.items()}
    groups: dict[int, list[int]] = {}
    for index, tensor in distinct.items():
        groups.setdefault(storage_address(tensor) or -1 - index, []).append(index)
    made: dict[int, Tensor] = {}
    for group in groups.values():
        made |= room({i: places[i] for i in group}, own)
    for index, tensor in made.items():
        fill(tensor, narrowed(own[index], tensor.shape))
    return {index: made[one] for index, one in same.items()}


def room(places: Mapping[int, Strided], like: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Uninitialized tensors in one memory, of the dtypes of `like`."""
    ((index, (size, stride, offset)), *others) = places.items()
    first = like[index]
    if not others and not offset:
        return {index: torch.empty_strided(size, stride, dtype=first.dtype, device=first.device)}
    ends = {i: (offset + span(*where)) for i, (*where, offset) in places.items()}
    length = max(end * like[i].element_size() for i, end in ends.items())
    memory = torch.empty(length, dtype=torch.uint8, device=first.device).untyped_storage()
    return {
        i: torch.empty(0, dtype=like[i].dtype, device=first.device).set_(
            memory, offset, tuple(size), tuple(stride)
        )
        for i, (size, stride, offset) in places.items()
    }


def fill(target: Tensor, source: Tensor) -> None:
    """Copy between tensors of one shape; elements of the target may share memory."""
    if has_separate_elements(target):
        target.copy_(source)
    elif has_separate_elements(single := one_of(target, dims := repeated_dims(target))):
        single.copy_(one_of(source, dims))
    else:
        length = (span(target.shape, target.stride()),)
        flat = source.contiguous() if source.stride() != target.stride() else source
        target.as_strided(length, (1,)).copy_(flat.as_strided(length, (1,)))


def has_separate_elements(tensor: Tensor) -> bool:
    """Whether no two elements share memory, as far as strides in ascending order tell."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return False
        reach += (size - 1) * stride
    return True


def repeated_dims(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions of more than one element that are one element in memory."""
    sizes = enumerate(zip(tensor.shape, tensor.stride(), strict=True))
    return tuple(dim for dim, (size, stride) in sizes if size > 1 and stride == 0)


def one_of(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """The first element along each of these dimensions, which stay."""
    for dim in dims:
        tensor = tensor.narrow(dim, 0, 1)
    return tensor


def narrowed(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """The first rows of each dimension."""
    for dim, length in enumerate(size):
        if tensor.shape[dim] != length:
            tensor = tensor.narrow(dim, 0, length)
    return tensor


def span(size: Sequence[int], stride: Sequence[int]) -> int:
    """Elements from the first to behind the last."""
    if 0 in size:
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))


def strided_place(tensor: Tensor) -> Strided:
    """Where a tensor lies in its memory."""
    return tensor.shape, tensor.stride(), int(tensor.storage_offset())
