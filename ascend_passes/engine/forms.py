"""The many names of an operation brought to one.

Each entry of `FORMS` looks at one node and says what stands for it: None for itself, another node,
or a new call. Patterns go through the same forms, so both sides of a match are spelled alike.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.engine.scalar_constant import constant_number
from ascend_passes.ir.arguments import arguments
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import first, is_call, same_sizes, unproven, value
from ascend_passes.ir.proof import prove
from ascend_passes.ir.sharing import may_replace, memory, read_instead, size_shows
from ascend_passes.ir.trace import not_faking

aten = torch.ops.aten
prims = torch.ops.prims
END = 2**63 - 1
INT8, QINT8 = 1, 12
"""torch's numbers for the dtypes."""
Form = Callable[[fx.Node], fx.Node | None]


def same_call(node: fx.Node, target: Any, arguments: tuple[Any, ...], **keywords: Any) -> fx.Node:
    """The node itself with other arguments, or another operator's call in front of it."""
    if target is node.target:
        node.args, node.kwargs = arguments, keywords
        return node
    with Editor(node.graph).at(node) as edit:
        return edit.same(target, *arguments, **keywords)


def rename(target: Any) -> Form:
    """The same arguments under another operator, by keyword where it takes only those."""
    positional = sum(not entry.kwarg_only for entry in target._schema.arguments)

    def renamed(node: fx.Node) -> fx.Node:
        names = [entry.name for entry in node.target._schema.arguments]  # type: ignore[union-attr]
        more = dict(zip(names[positional:], node.args[positional:], strict=False))
        return same_call(node, target, node.args[:positional], **more, **node.kwargs)

    return renamed


def same_layout(node: fx.Node, source: fx.Node) -> bool:
    """Whether two tensors have equal shape, dtype, device and strides, and numbers lie in them
    alike: a conjugate that is only marked so is no copy of one that is written out."""
    a, b = value(node), value(source)
    return (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.dtype == b.dtype
        and a.device == b.device
        and (a.is_conj(), a.is_neg()) == (b.is_conj(), b.is_neg())
        and same_sizes(a.shape, b.shape)
        and same_sizes(a.stride(), b.stride())
        and not (unproven(a) or unproven(b))
    )


def drop_identity(node: fx.Node) -> fx.Node | None:
    """A view that changes nothing."""
    source = first(node)
    return source if same_layout(node, source) and may_replace(node, source) else None


def drop_copy(node: fx.Node) -> fx.Node | None:
    """A copy whose source could be used as well; who only reads it reads the source anyway.

    A copy stays where it leaves the graph, or something that is as large in memory: its memory is
    as large as it says, and nobody else's, which not every operator's result can say of itself.
    """
    source = first(node)
    if not same_layout(node, source):
        return None
    if not size_shows(memory(node)) and may_replace(node, source):
        return source
    read_instead(node, source)
    return None


def convert(node: fx.Node) -> fx.Node | None:
    """A cast without what it repeats from its input; no cast at all where the dtype stays."""
    source = first(node)
    dropped = drop_copy(node)
    if dropped is not None:
        return dropped
    if node.kwargs.get("pin_memory"):
        return None
    a, b = value(node), value(source)
    wanted = {} if a.dtype == b.dtype else {"dtype": a.dtype}
    if a.device != b.device:
        wanted["device"] = a.device
    alike = same_sizes(a.stride(), b.stride()) and not (unproven(a) or unproven(b))
    if not alike:  # else any format keeps the input's layout
        wanted["memory_format"] = node.kwargs.get("memory_format")
    wanted = {name: item for name, item in wanted.items() if item is not None}
    if node.kwargs == wanted and node.target is aten._to_copy.default:
        return None
    return same_call(node, aten._to_copy.default, (source,), **wanted)


def view(node: fx.Node) -> fx.Node | None:
    """One view, of the first tensor in a chain of views, to a shape without -1."""
    source = first(node)
    while is_call(source, aten.view.default, aten._unsafe_view.default):
        source = first(source)
    if same_layout(node, source) and may_replace(node, source):
        return source
    shape = [
        size if isinstance(size, int) else given
        for size, given in zip(value(node).shape, given_shape(node), strict=True)
    ]
    known = node.target is aten.view.default and source is node.args[0] and shape == node.args[1]
    return None if known else same_call(node, aten.view.default, (source, shape))


def given_shape(node: fx.Node) -> list[Any]:
    """The shape argument of a view; -1 gives way to the node's own size where that is a number."""
    shape: Any = [*node.args, *node.kwargs.values()][1]
    return list(shape)


def reshape(node: fx.Node) -> fx.Node | None:
    """A reshape that needs no copy is a view; fake values share storage exactly then."""
    source = first(node)
    if value(source).untyped_storage()._cdata != value(node).untyped_storage()._cdata:
        return None
    return same_call(node, aten.view.default, (source, given_shape(node)))


def permute(node: fx.Node) -> fx.Node | None:
    """Every permutation under one name, with dims that are not negative; chains become one."""
    source, rank = first(node), value(node).dim()
    dims = permutation(node, rank)
    while is_call(source, aten.permute.default):
        inner = permutation(source, rank)
        source, dims = first(source), [inner[dim] for dim in dims]
    if dims == list(range(rank)) and may_replace(node, source):
        return source
    if node.target is aten.permute.default and node.args == (source, dims):
        return None
    return same_call(node, aten.permute.default, (source, dims))


def permutation(node: fx.Node, rank: int) -> list[int]:
    """Which input dim each output dim of `t`, `transpose` or `permute` is."""
    _, *given = arguments(node)
    if node.target is aten.permute.default:
        return list(given[0])
    dims = list(range(rank))
    if rank < 2:  # t of a vector, or a number's only transpose
        return dims
    one, other = given or (0, 1)
    dims[one], dims[other] = dims[other], dims[one]
    return dims


def slice_(node: fx.Node) -> fx.Node | None:
    """A slice with all its arguments, its end open where it reaches the end; none where it takes
    everything."""
    if drop_identity(node) is not None:
        return first(node)
    source, dim, start, end, step = arguments(node)
    size = value(source).shape[dim]
    start = slice_bound(0 if start is None else start, size)
    end = slice_bound(END if end is None else end, size)
    if isinstance(start, int) and isinstance(end, int) and 0 <= end < start:
        end = start  # empty, as for the operator
    if reaches_end(end, size):
        end = END
    wanted = (source, dim, start, end, step)
    return None if node.args == wanted else same_call(node, aten.slice.Tensor, wanted)


def slice_bound(position: Any, size: Any) -> Any:
    """A bound of a slice counted from the start and within the dim, where both are numbers."""
    if not isinstance(position, int) or not isinstance(size, int):
        return position
    return min(max(position + size if position < 0 else position, 0), size)


def reaches_end(end: Any, size: Any) -> bool:
    """Whether a slice's end lies at or behind the end of its dim."""
    end = value(end) if isinstance(end, fx.Node) else end
    return prove(end >= size)


def part_of_split(node: fx.Node) -> fx.Node | None:
    """A part of a split is a slice, where its bounds are numbers."""
    given: Any = node.args
    source, index = given
    if not is_call(source, aten.split.Tensor, aten.split_with_sizes.default):
        return None
    tensor = first(source)
    named = source.args[2] if len(source.args) > 2 else source.kwargs.get("dim", 0)
    dim = named % value(tensor).dim()
    parts = [part.shape[dim] for part in value(source)]
    start, end = sum(parts[:index]), sum(parts[: index + 1])
    if isinstance(start, int) and isinstance(end, int):
        return same_call(node, aten.slice.Tensor, (tensor, dim, start, end, 1))
    return None


def square(node: fx.Node) -> fx.Node | None:
    """x * x is pow(x, 2) for real numbers; of a bool pow makes an integer."""
    if node.args[0] is node.args[1] and value(node).dtype.is_floating_point:
        return same_call(node, aten.pow.Tensor_Scalar, (node.args[0], 2))
    return None


def plain_int8(node: fx.Node) -> fx.Node | None:
    """torch's qint8 and int8 ask `npu_quantize` for the same result, a plain int8 tensor."""
    if len(node.args) > 3 and node.args[3] == QINT8:
        return same_call(node, node.target, (*node.args[:3], INT8, *node.args[4:]), **node.kwargs)
    return None


def unasked_int8(node: fx.Node) -> fx.Node | None:
    """int8 is what `npu_dynamic_quant` gives where no dtype is asked for."""
    if node.kwargs.get("dst_type") not in (INT8, QINT8):
        return None
    others = {name: item for name, item in node.kwargs.items() if name != "dst_type"}
    return same_call(node, node.target, node.args, **others)


def drop_check(node: fx.Node) -> fx.Node | None:
    """A check that was made while tracing."""
    node.graph.erase_node(node)
    return None


def clamp_by_numbers(node: fx.Node) -> fx.Node | None:
    """A clamp between constant scalars as one between numbers, where both mean the same.

    A bound that the clamped dtype cannot hold exactly would be rounded at another place.
    """
    source, low, high = arguments(node)
    if value(node).dtype != value(source).dtype:
        return None
    numbers = [None if bound is None else constant_number(bound) for bound in (low, high)]
    if any(
        bound is not None and number is None
        for bound, number in zip((low, high), numbers, strict=True)
    ):
        return None
    with not_faking():
        if any(
            torch.tensor(number, dtype=value(source).dtype).item() != number
            for number in numbers
            if number is not None
        ):
            return None
    return same_call(node, aten.clamp.default, (source, *numbers))


FORMS: Mapping[Any, Form] = MappingProxyType(
    {
        aten._to_copy.default: convert,
        prims.convert_element_type.default: convert,
        aten.clone.default: drop_copy,
        aten.lift_fresh_copy.default: drop_copy,
        aten.alias.default: drop_identity,
        aten.detach.default: drop_identity,
        aten.expand.default: drop_identity,
        aten._unsafe_view.default: view,
        aten.view.default: view,
        aten.reshape.default: reshape,
        aten.t.default: permute,
        aten.transpose.int: permute,
        aten.permute.default: permute,
        aten.slice.Tensor: slice_,
        aten.clamp.Tensor: clamp_by_numbers,
        operator.getitem: part_of_split,
        aten.add.Scalar: rename(aten.add.Tensor),
        aten.sub.Scalar: rename(aten.sub.Tensor),
        aten.mul.Scalar: rename(aten.mul.Tensor),
        aten.div.Scalar: rename(aten.div.Tensor),
        aten.mul.Tensor: square,
        aten.square.default: lambda node: same_call(
            node, aten.pow.Tensor_Scalar, (node.args[0], 2)
        ),
        aten._assert_tensor_metadata.default: drop_check,
        npu.packet("npu_quantize").default: plain_int8,
        npu.packet("npu_dynamic_quant").default: unasked_int8,
    }
)
