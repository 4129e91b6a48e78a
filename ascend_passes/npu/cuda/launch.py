"""How a kernel is called: which rows and columns a call has, and what it asks of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ascend_passes.ir.trace_triton import InTiles, is_traced
from ascend_passes.npu.operator import FLOATS

MOST_COLUMNS = 16384
"""Columns that a program holds at a time; a longer row is read in blocks, or not at all."""


class Defeated(Exception):  # noqa: N818 - not an error: the reference runs
    """A call that no kernel takes; the text says why."""


def require_that(holds: bool, reason: str, *shown: Any) -> None:
    """Leave the call to the reference unless `holds`; `shown` is put into the reason then, by `%`.

    Raises:
        Defeated: it does not.
    """
    if not holds:
        raise Defeated(reason % shown)


def require_rows(*tensors: Tensor | None) -> None:
    """Each is a contiguous float tensor on one CUDA device, and has elements.

    Raises:
        Defeated: one is not.
    """
    for tensor in tensors:
        if tensor is None:
            continue
        require_that(tensor.is_contiguous(), "a tensor with strides %s", tensor.stride())
        require_that(tensor.dtype in FLOATS, "an input of %s", tensor.dtype)
        require_that(tensor.numel() > 0, "a tensor without elements")


def require_columns(width: int, *tensors: Tensor | None) -> None:
    """Each has one value, or one for each column.

    Raises:
        Defeated: one has neither.
    """
    for tensor in tensors:
        require_that(tensor is None or tensor.numel() in (1, width), "a scale of another size")


def rows_of(x: Tensor) -> int:
    """Rows of a tensor whose last dim are the columns."""
    return math.prod(x.shape[:-1])


def block_of(width: int, most: int = MOST_COLUMNS) -> int:
    """Columns that a program holds: a power of two, at least the width where that is few enough."""
    return min(most, max(16, 1 << (width - 1).bit_length()))


def warps_of(block: int) -> int:
    """Warps of a program that holds so many columns: four for 1,024 to 8,192, so that the sums of a
    row cross few warps, and beyond no more than 64 columns to a thread."""
    return max(min(4, block // 256), block // 2048, 1)


def or_self(tensor: Tensor | None, stand_in: Tensor) -> Any:
    """A pointer for a kernel that does not read it where the tensor is absent."""
    return stand_in if tensor is None else tensor


Launch = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, int]], None]
"""Launches a kernel on a grid with its arguments and its numbers of warps and stages."""


def is_aligned(matrix: Tensor) -> bool:
    """Whether it starts at a multiple of 16 bytes.

    In a graph that is traced that is so where its memory's first byte is: what Inductor allocates
    is aligned, and Inductor copies the inputs that are not.
    """
    if is_traced(matrix):
        return int(matrix.storage_offset()) * matrix.element_size() % 16 == 0
    return matrix.data_ptr() % 16 == 0


def launch_now(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], how: dict[str, int]
) -> None:
    """The launch of an eager call."""
    kernel[grid](*(as_launched(argument) for argument in arguments), **how)


def as_launched(argument: Any) -> Any:
    """An argument as an eager launch takes it."""
    if not isinstance(argument, InTiles):
        return argument
    from triton.tools.tensor_descriptor import TensorDescriptor

    matrix = argument.matrix
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), [*argument.tile])
