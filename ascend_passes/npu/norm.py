"""RMSNorm, alone, behind the residual add, and with a cast behind it.

Rounding on Atlas A2 and A3: sums and products are float32 inside; bfloat16 rounds the sum, the
normalized value and its product with gamma; float16 does its add and multiply in float16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.accuracy import GAINED, ONE_ROUNDING, RSTD, SINGLE, SUM, ULP, Bound, halves
from ascend_passes.npu.norm_limits import (
    add_rms_norm_cast_limits,
    add_rms_norm_limits,
    gemma_rms_norm_limits,
    rms_norm_limits,
)
from ascend_passes.npu.operator import Operator, empty

EPSILON = 1e-06


def statistics_shape(x: Tensor, gamma: Tensor) -> list[Any]:
    """Shape of rstd: the leading dims of x, then 1 for each normalized dim."""
    kept = x.dim() - gamma.dim()
    return [*x.shape[:kept], *(1 for _ in range(gamma.dim()))]


def normalized(x: Tensor, dims: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """float32 `x * rstd` over the last `dims` dims, and rstd; both are the caller's to write.

    What is new here is written in place: a decode step has few rows, and each kernel counts.
    """
    wide = x.float()
    axes = tuple(range(-dims, 0))
    rstd = wide.square().mean(axes, keepdim=True).add_(epsilon).rsqrt_()
    return wide * rstd, rstd


def with_gain(values: Tensor, gamma: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalized float32 values times gamma, in `dtype` and with its roundings; `values` may be
    written."""
    if gamma.dtype != dtype:  # a float32 gamma keeps the product float32 until the end
        return values.mul_(gamma.float()).to(dtype)
    return values.to(dtype).mul_(gamma)


def rms_norm(input: Tensor, gamma: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, Tensor]:
    """(y, rstd)."""
    values, rstd = normalized(input, gamma.dim(), epsilon)
    return with_gain(values, gamma, input.dtype).contiguous(), rstd.contiguous()


def fake_rms_norm(input: Tensor, gamma: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, Tensor]:
    """(y, rstd)."""
    return empty(input, input.shape), empty(input, statistics_shape(input, gamma), torch.float32)


def gemma_rms_norm(input: Tensor, gamma: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, Tensor]:
    """(y, rstd) with the gain `1 + gamma`, added in float32; one rounding at the end."""
    values, rstd = normalized(input, gamma.dim(), epsilon)
    return (values * (gamma.float() + 1)).to(input.dtype).contiguous(), rstd.contiguous()


def add_rms_norm(
    x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, rstd, x1 + x2)."""
    total = (x1 + x2).contiguous()
    y, rstd = rms_norm(total, gamma, epsilon)
    return y, rstd, total


def fake_add_rms_norm(
    x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, rstd, x1 + x2)."""
    return *fake_rms_norm(x1, gamma), empty(x1, x1.shape)


def add_rms_norm_cast(
    x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(float32 of y, y, rstd, x1 + x2)."""
    y, rstd, total = add_rms_norm(x1, x2, gamma, epsilon)
    return y.to(torch.float32, copy=True), y, rstd, total


def fake_add_rms_norm_cast(
    x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(float32 of y, y, rstd, x1 + x2)."""
    return empty(x1, x1.shape, torch.float32), *fake_add_rms_norm(x1, x2, gamma)


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_rms_norm",
        "npu_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)",
        fake_rms_norm,
        rms_norm,
        rms_norm_limits,
        "torch_npu.npu_rms_norm; aclnnRmsNorm",
        rows=("input",),
        identity="sink_norm",
        accuracy=(GAINED, Bound("y with a float32 gamma", ULP, halves(ONE_ROUNDING)), RSTD),
        converter="RmsNorm",
    ),
    Operator(
        "npu_gemma_rms_norm",
        "npu_gemma_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)",
        fake_rms_norm,
        gemma_rms_norm,
        gemma_rms_norm_limits,
        "torch_npu.npu_gemma_rms_norm; aclnnGemmaRmsNorm",
        rows=("input",),
        identity="sink_norm",
        accuracy=(Bound("y", ULP, halves(ONE_ROUNDING, SINGLE)),),
    ),
    Operator(
        "npu_add_rms_norm",
        "npu_add_rms_norm(Tensor x1, Tensor x2, Tensor gamma, float epsilon=1e-06)"
        " -> (Tensor, Tensor, Tensor)",
        fake_add_rms_norm,
        add_rms_norm,
        add_rms_norm_limits,
        "torch_npu.npu_add_rms_norm; aclnnAddRmsNorm",
        rows=("x1", "x2"),
        identity="sink_norm",
        accuracy=(GAINED, SUM),
        converter="AddRmsNorm",
    ),
    Operator(
        "npu_add_rms_norm_cast",
        "npu_add_rms_norm_cast(Tensor x1, Tensor x2, Tensor gamma, float epsilon=1e-06)"
        " -> (Tensor, Tensor, Tensor, Tensor)",
        fake_add_rms_norm_cast,
        add_rms_norm_cast,
        add_rms_norm_cast_limits,
        "torch_npu.npu_add_rms_norm_cast; aclnnAddRmsNormCast",
        rows=("x1", "x2"),
        identity="sink_norm",
        accuracy="bit for bit `npu_add_rms_norm`; its float32 result is y, widened",
        converter="AddRmsNormCast",
    ),
)
