"""RMSNorm, its residual add and its quantizes as one kernel a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.cuda.launch import (
    MOST_COLUMNS,
    Launch,
    block_of,
    or_self,
    require_columns,
    require_rows,
    require_that,
    rows_of,
    warps_of,
)
from ascend_passes.npu.kernels.norm_rows import norm_rows, norm_rows_dynamic, norm_rows_static
from ascend_passes.npu.norm import EPSILON, statistics_shape
from ascend_passes.npu.norm_quant import nothing, wanted_outputs
from ascend_passes.npu.operator import INT8_CODES
from ascend_passes.npu.rounding import UNDEFINED


def checked_width(x: Tensor, residual: Tensor | None, gamma: Tensor) -> int:
    """Columns of the rows that are normalized.

    Raises:
        Defeated: more than one dim is normalized, or a program cannot hold a row.
    """
    require_rows(x, residual, gamma)
    require_that(gamma.dim() == 1, "a gain of %s dims", gamma.dim())
    width = x.shape[-1]
    require_that(width <= MOST_COLUMNS, "%s columns, over %s", width, MOST_COLUMNS)
    require_that(residual is None or residual.shape == x.shape, "an addend that is broadcast")
    require_that(residual is None or residual.dtype == x.dtype, "addends of two dtypes")
    return width


def normed_rows(
    launch: Launch,
    x: Tensor,
    residual: Tensor | None,
    gamma: Tensor,
    epsilon: float,
    one_plus: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, rstd, the sum); the sum is x itself where nothing is added."""
    width = checked_width(x, residual, gamma)
    y, rows, block = torch.empty_like(x), rows_of(x), block_of(width)
    rstd = x.new_empty(statistics_shape(x, gamma), dtype=torch.float32)
    total = x if residual is None else torch.empty_like(x)
    every = (x, or_self(residual, x), gamma, y, rstd, total, rows, epsilon, width, block)
    flags = (residual is not None, one_plus, gamma.dtype == x.dtype and not one_plus)
    launch(norm_rows, (rows,), (*every, *flags), {"num_warps": warps_of(block)})
    return y, rstd, total


def rms_norm_kernel(
    launch: Launch, input: Tensor, gamma: Tensor, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor]:
    """`npu_rms_norm`."""
    return normed_rows(launch, input, None, gamma, epsilon, False)[:2]


def gemma_rms_norm_kernel(
    launch: Launch, input: Tensor, gamma: Tensor, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor]:
    """`npu_gemma_rms_norm`."""
    return normed_rows(launch, input, None, gamma, epsilon, True)[:2]


def add_rms_norm_kernel(
    launch: Launch, x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor, Tensor]:
    """`npu_add_rms_norm`."""
    return normed_rows(launch, x1, x2, gamma, epsilon, False)


def static_rows(
    launch: Launch,
    x: Tensor,
    residual: Tensor | None,
    gamma: Tensor,
    beta: Tensor | None,
    scale: Tensor,
    zero_point: Tensor | None,
    epsilon: float,
    divide: bool,
) -> tuple[Tensor, Tensor]:
    """(int8, the sum)."""
    width = checked_width(x, residual, gamma)
    require_rows(beta)
    require_columns(width, scale, zero_point)
    require_that(
        zero_point is None or zero_point.numel() == scale.numel(), "scales and zero points differ"
    )
    require_that(scale.is_contiguous(), "a scale with strides")
    y, rows, block = torch.empty_like(x, dtype=torch.int8), rows_of(x), block_of(width)
    total = x if residual is None else torch.empty_like(x)
    every: tuple[Any, ...] = (
        *(x, or_self(residual, x), gamma, or_self(beta, gamma), scale),
        *(or_self(zero_point, scale), y, total, rows, epsilon, width, block),
        *(residual is not None, beta is not None, x.dtype == torch.float16, divide),
        *(zero_point is not None, scale.numel()),
    )
    launch(norm_rows_static, (rows,), every, {"num_warps": warps_of(block)})
    return y, total


def add_rms_norm_quant_kernel(
    launch: Launch,
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    scales1: Tensor,
    zero_points1: Tensor | None,
    beta: Tensor | None = None,
    scales2: Tensor | None = None,
    zero_points2: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = EPSILON,
    div_mode: bool = True,
    dst_type: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`npu_add_rms_norm_quant` with one scale, or two: the second quantize reads the sum again."""
    require_that(dst_type in (None, *INT8_CODES), "a result of code %s", dst_type)
    first = static_rows(launch, x1, x2, gamma, beta, scales1, zero_points1, epsilon, div_mode)
    y1, total = first
    if scales2 is None:
        return y1, torch.full_like(y1, UNDEFINED), total
    again = static_rows(launch, total, None, gamma, beta, scales2, zero_points2, epsilon, div_mode)
    return y1, again[0], total


def rms_norm_quant_kernel(
    launch: Launch,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    scale: Tensor,
    offset: Tensor,
    epsilon: float = EPSILON,
    *,
    dst_dtype: int | None = None,
) -> Tensor:
    """`npu_rms_norm_quant`."""
    require_that(dst_dtype in (None, *INT8_CODES), "a result of code %s", dst_dtype)
    gain, shift = gamma.reshape(-1), beta.reshape(-1)
    return static_rows(launch, x, None, gain, shift, scale, offset, epsilon, False)[0]


def dynamic_rows(
    launch: Launch,
    x: Tensor,
    residual: Tensor | None,
    gamma: Tensor,
    beta: Tensor | None,
    smooth: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(int8, scale, the sum)."""
    width = checked_width(x, residual, gamma)
    require_rows(beta, smooth)
    y, rows, block = torch.empty_like(x, dtype=torch.int8), rows_of(x), block_of(width)
    scale = x.new_empty(x.shape[:-1], dtype=torch.float32)
    total = x if residual is None else torch.empty_like(x)
    every: tuple[Any, ...] = (
        *(x, or_self(residual, x), gamma, or_self(beta, gamma), or_self(smooth, gamma)),
        *(y, scale, total, rows, epsilon, width, block),
        *(residual is not None, beta is not None, x.dtype == torch.float16, smooth is not None),
    )
    launch(norm_rows_dynamic, (rows,), every, {"num_warps": warps_of(block)})
    return y, scale, total


def add_rms_norm_dynamic_quant_kernel(
    launch: Launch,
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    *,
    smooth_scale1: Tensor | None = None,
    smooth_scale2: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = EPSILON,
    output_mask: list[bool] | None = None,
    y_dtype: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`npu_add_rms_norm_dynamic_quant`; a second quantize reads the sum again."""
    require_that(y_dtype in (None, *INT8_CODES), "a result of code %s", y_dtype)
    first, second = wanted_outputs(smooth_scale1, smooth_scale2, output_mask)
    require_that(first, "only the second result is asked for")
    y1, scale1, total = dynamic_rows(launch, x1, x2, gamma, beta, smooth_scale1, epsilon)
    again: Any = (
        dynamic_rows(launch, total, None, gamma, beta, smooth_scale2, epsilon)[:2]
        if second
        else nothing(total)
    )
    return y1, again[0], total, scale1, again[1]


KERNELS = {
    "npu_rms_norm": rms_norm_kernel,
    "npu_gemma_rms_norm": gemma_rms_norm_kernel,
    "npu_add_rms_norm": add_rms_norm_kernel,
    "npu_add_rms_norm_quant": add_rms_norm_quant_kernel,
    "npu_add_rms_norm_dynamic_quant": add_rms_norm_dynamic_quant_kernel,
    "npu_rms_norm_quant": rms_norm_quant_kernel,
}
