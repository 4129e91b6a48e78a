"""The strides that eager gives the result of a pointwise operator with several tensors.

torch's fake values say others where a tensor is expanded or cut out of a larger one: they cast half
precision to float first, and the cast forgets how the tensor lay; some operators fall to formulas
in Python that order dims in another way. This is the order of torch's TensorIterator
(`reorder_dimensions` and `fast_set_up` in aten/src/ATen/TensorIterator.cpp of torch 2.13).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ascend_passes.ir.graph import agree, same_size, same_sizes
from ascend_passes.ir.proof import prove

aten = torch.ops.aten
Strides = tuple[Any, ...]
ORDERS: dict[Any, tuple[int, ...]] = {
    aten.rsub.Tensor: (1, 0),
    aten.threshold_backward.default: (1, 0),
}
"""Operators whose kernels take the tensors in another order than their schemas."""
OTHERS = frozenset({aten.lerp.Scalar, aten.masked_fill.Scalar})
"""Operators that compute their strides in a way of their own, which the fakes follow."""
UNKNOWN = frozenset({aten.ldexp.Tensor})
"""Operators whose strides neither the iterator nor the fakes tell."""
DROPOUT = aten.native_dropout_backward.default
CHANNELS_LAST = (1, 3, 2, 0)
"""The dims of an image, from the one whose elements lie side by side."""


@functools.cache
def has_iterator(target: Any) -> bool:
    """Whether an operator computes one tensor from several, element by element."""
    if not isinstance(target, torch._ops.OpOverload) or target in OTHERS:
        return False
    if target not in ORDERS and torch.Tag.pointwise not in target.tags:
        return False
    schema = target._schema
    results = [str(entry.type) for entry in schema.returns]
    return results == ["Tensor"] and not schema.is_mutable and not target._can_decompose()


def eager_strides(target: Any, result: Tensor, tensors: Sequence[Tensor]) -> Strides | None:
    """The strides, in elements, of what eager computes from `tensors`.

    None where they depend on sizes that are not known.

    Args:
        target: an operator that `has_iterator`.
        result: the fake value of the result, whose strides may be wrong.
        tensors: what the operator takes, in the order of its schema.
    """
    tensors = [tensors[index] for index in ORDERS.get(target, range(len(tensors)))]
    shape = tuple(result.shape)
    casts = needs_cast(target, result, tensors)
    if not any(casts) and all(lies_like(tensor, result) for tensor in tensors):
        return tuple(result.stride())  # a result is dense, and so are they
    if target in UNKNOWN:
        return None
    known = []
    for tensor, cast in zip(tensors, casts, strict=True):
        own = ordered_strides(tuple(tensor.shape), tensor.stride()) if cast else tensor.stride()
        aligned = None if own is None else broadcast(tuple(tensor.shape), own, shape)
        if aligned is None:
            return None
        known.append(aligned)
    whole = all(len(t.shape) == len(shape) and same_sizes(t.shape, shape) for t in tensors)
    return (fast(shape, known) if whole else None) or ordered_strides(shape, *known)


def needs_cast(target: Any, result: Tensor, tensors: Sequence[Tensor]) -> list[bool]:
    """Which tensors a CPU's kernel casts, in memory of their own, before it looks at strides."""
    if result.device.type != "cpu":
        return [False] * len(tensors)
    if target is aten.where.self:
        return [False, *(tensor.dtype != result.dtype for tensor in tensors[1:])]
    common = result.dtype
    if len(tensors) == 2 and (common == torch.bool or target is DROPOUT):
        common = torch.result_type(*tensors)
    return [tensor.dtype != common for tensor in tensors]


def lies_like(tensor: Tensor, result: Tensor) -> bool:
    """Whether a tensor has the sizes and strides of the result."""
    ours, theirs = (*tensor.shape, *tensor.stride()), (*result.shape, *result.stride())
    return len(ours) == len(theirs) and all(map(same_number, ours, theirs))


def same_number(left: Any, right: Any) -> bool:
    """Whether two sizes are written in the same way, which costs no proof."""
    if isinstance(left, int) or isinstance(right, int):
        return isinstance(left, int) and isinstance(right, int) and left == right
    return bool(left.node.expr == right.node.expr)


def broadcast(own: Strides, strides: Strides, shape: Strides) -> Strides | None:
    """The strides of a tensor of sizes `own` as if it had a larger shape; None where it cannot be
    told which dims repeat."""
    missing = len(shape) - len(own)
    found: list[Any] = [0] * missing
    for size, stride, whole in zip(own, strides, shape[missing:], strict=True):
        if same_size(size, whole):
            found.append(stride)
        elif same_size(size, 1):
            found.append(0)
        else:
            return None
    return tuple(found)


def fast(shape: Strides, operands: Sequence[Strides]) -> Strides | None:
    """The strides of tensors of one shape that are all contiguous, or all channels last."""
    order = range(len(shape) - 1, -1, -1)
    empty = any(isinstance(size, int) and size == 0 for size in shape)
    if empty:
        return packed([max(size, 1) if isinstance(size, int) else size for size in shape], order)
    for dims in (order, CHANNELS_LAST) if len(shape) == 4 else (order,):
        wanted = packed(shape, dims)
        if all(agree(shape, strides, wanted) for strides in operands):
            return wanted
    return None


def packed(shape: Sequence[Any], dims: Sequence[int]) -> Strides:
    """The strides of a dense tensor whose dims lie in this order, the innermost first."""
    strides: list[Any] = [1] * len(shape)
    for inner, outer in pairwise(dims):
        strides[outer] = strides[inner] * shape[inner]
    return tuple(strides)


def ordered_strides(shape: Strides, *operands: Strides) -> Strides | None:
    """The strides of a dense tensor whose dims lie as in the operands, the first counting most.

    None where that depends on sizes that are not known.
    """
    dims = list(range(len(shape) - 1, -1, -1))
    for index in range(1, len(dims)):
        moving = index
        for place in range(index - 1, -1, -1):
            order = order_of_dims(shape, operands, dims[place], dims[moving])
            if order is None:
                return None
            if order < 0:
                break
            if order > 0:
                dims[place], dims[moving] = dims[moving], dims[place]
                moving = place
    return packed(shape, dims)


def order_of_dims(
    shape: Strides, operands: Sequence[Strides], inner: int, outer: int
) -> int | None:
    """-1 where two dims lie as they stand, 1 where they lie the other way round, 0 where no operand
    tells; None where that is not known."""
    for strides in operands:
        one, other = strides[inner], strides[outer]
        if same_size(one, 0) or same_size(other, 0):
            continue
        order = sign(one, other)
        if order != 0:
            return order
        order = sign(shape[inner], shape[outer])
        if order is None or order > 0:
            return order
    return 0


def sign(left: Any, right: Any) -> int | None:
    """-1, 0 or 1 as the left number is less, the same or more; None where that is not known."""
    if same_size(left, right):
        return 0
    if less(left, right):
        return -1
    return 1 if less(right, left) else None


def less(left: Any, right: Any) -> bool:
    """Whether a number is less than another for certain."""
    if prove(left < right):
        return True
    if isinstance(left, int) and isinstance(right, int):
        return False
    # Of two products, bounds say little: the one may hold the other.
    return prove(right % left == 0) and prove(right // left > 1)
