"""SwiGLU, plain and quantized, as one kernel a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.activation import DYNAMIC
from ascend_passes.npu.cuda.launch import (
    Launch,
    block_of,
    or_self,
    require_columns,
    require_rows,
    require_that,
    rows_of,
)
from ascend_passes.npu.kernels.swiglu_rows import (
    swiglu_rows,
    swiglu_rows_dynamic,
    swiglu_rows_static,
)
from ascend_passes.npu.operator import INT8_CODES

COLUMNS_AT_ONCE = 4096
"""Of each half, where a program goes through them in blocks."""
COLUMNS_HELD = 32768
"""Of the gated half of a row, which 32 warps hold between finding its scale and dividing by it."""


def halves_width(x: Tensor) -> int:
    """Columns of each half.

    Raises:
        Defeated: the halves do not lie in contiguous rows.
    """
    require_rows(x)
    require_that(x.shape[-1] % 2 == 0, "an odd number of columns")
    return x.shape[-1] // 2


def gate_warps(block: int) -> int:
    """Warps of a program that holds so many columns of each half: as many as hide what a gate
    takes, up to all that a program can have."""
    return min(32, max(1, block // 256))


def swiglu_kernel(launch: Launch, input: Tensor, dim: int = -1) -> Tensor:
    """`npu_swiglu` of the last dim by this launch."""
    require_that(dim in (-1, input.dim() - 1), "dim %s", dim)
    width = halves_width(input)
    y, block = input.new_empty((*input.shape[:-1], width)), block_of(width, COLUMNS_AT_ONCE)
    rows = rows_of(input)
    every = (input, y, rows, width, block)
    launch(swiglu_rows, (rows,), every, {"num_warps": gate_warps(block)})
    return y


def gated_rows(
    launch: Launch, x: Tensor, smooth: Tensor | None, activate_left: bool, rounded: bool
) -> tuple[Tensor, Tensor]:
    """(int8, scale) per token; `rounded` says whether the gated row has the dtype of x first."""
    width, rows = halves_width(x), rows_of(x)
    y = x.new_empty((*x.shape[:-1], width), dtype=torch.int8)
    scale = x.new_empty(x.shape[:-1], dtype=torch.float32)
    block = block_of(width, COLUMNS_HELD if width <= COLUMNS_HELD else COLUMNS_AT_ONCE)
    every: tuple[Any, ...] = (
        *(x, or_self(smooth, x), y, scale, rows, width, block),
        *(activate_left, smooth is not None, rounded),
    )
    launch(swiglu_rows_dynamic, (rows,), every, {"num_warps": gate_warps(block)})
    return y, scale


def swiglu_then_quant_kernel(launch: Launch, input: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """`npu_dynamic_quant` of `npu_swiglu` by this launch, bit for bit what the two kernels give."""
    require_that(dim in (-1, input.dim() - 1), "dim %s", dim)
    return gated_rows(launch, input, None, True, True)


def swiglu_quant_kernel(
    launch: Launch,
    x: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    offsets: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = False,
    quant_mode: int = 0,
    group_list_type: int = 0,
    dst_type: torch.dtype | int | None = None,
) -> tuple[Tensor, Tensor]:
    """`npu_swiglu_quant` without groups of experts by this launch."""
    require_that(group_index is None, "groups of experts")
    require_that(dst_type in (None, torch.int8, *INT8_CODES), "a result of %s", dst_type)
    width, rows = halves_width(x), rows_of(x)
    require_rows(smooth_scales, offsets)
    require_columns(width, smooth_scales, offsets)
    if quant_mode == DYNAMIC:
        whole = smooth_scales is None or smooth_scales.numel() == width
        require_that(whole and offsets is None, "one smooth scale for all columns, or offsets")
        return gated_rows(launch, x, smooth_scales, activate_left, False)
    require_that(smooth_scales is not None, "a static quantize without scales")
    assert smooth_scales is not None
    alike = offsets is None or offsets.numel() == smooth_scales.numel()
    require_that(alike, "scales and offsets of two sizes")
    y = x.new_empty((*x.shape[:-1], width), dtype=torch.int8)
    block = block_of(width, COLUMNS_AT_ONCE)
    every: tuple[Any, ...] = (
        *(x, smooth_scales, or_self(offsets, x), y, rows, width, block),
        *(activate_left, offsets is not None, smooth_scales.numel()),
    )
    launch(swiglu_rows_static, (rows,), every, {"num_warps": gate_warps(block)})
    return y, torch.zeros(x.shape[:-1], device=x.device)


KERNELS = {
    "npu_swiglu": swiglu_kernel,
    "npu_swiglu_quant": swiglu_quant_kernel,
    "swiglu_then_quant": swiglu_then_quant_kernel,
}
