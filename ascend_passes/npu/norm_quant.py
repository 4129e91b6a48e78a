"""RMSNorm with a quantize behind it, alone and behind the residual add.

Rounding as in `norm`, but that bfloat16 keeps the product with gamma in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.accuracy import (
    BEHIND_NORM,
    BEHIND_SUM,
    HALF_SUM,
    LSB,
    NEAREST_BEHIND,
    QUANTIZED,
    Bound,
    halves,
)
from ascend_passes.npu.norm import EPSILON, normalized
from ascend_passes.npu.norm_limits import (
    add_rms_norm_dynamic_quant_limits,
    add_rms_norm_quant_limits,
    rms_norm_quant_limits,
    rms_norm_quant_v2_limits,
)
from ascend_passes.npu.operator import Operator, dtype_of, empty
from ascend_passes.npu.rounding import UNDEFINED, dynamic_int8, scaled, to_integer


def before_quantize(
    x: Tensor, gamma: Tensor, beta: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    """float32 of what a fused quantize sees, `norm(x) * gamma + beta`, and rstd."""
    values, rstd = normalized(x, gamma.dim(), epsilon)
    if x.dtype == torch.float16:
        values = values.half() * gamma
        return (values if beta is None else values + beta).float(), rstd
    values = values * gamma.float()
    return values if beta is None else values + beta.float(), rstd


def add_rms_norm_quant(
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
    """(y1, y2, x1 + x2); y2 is undefined without scales2."""
    dtype = dtype_of(dst_type, torch.int8)
    total = (x1 + x2).contiguous()
    values, _ = before_quantize(total, gamma, beta, epsilon)
    y1 = to_integer(scaled(values, scales1, zero_points1, div_mode), dtype)
    if scales2 is None:
        return y1, torch.full_like(y1, UNDEFINED), total
    return y1, to_integer(scaled(values, scales2, zero_points2, div_mode), dtype), total


def fake_add_rms_norm_quant(
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    *_: Any,
    axis: int = -1,
    dst_type: int | None = None,
    **__: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y1, y2, x1 + x2), all of full size."""
    torch._check(axis == -1, lambda: f"axis must be -1, not {axis}")
    dtype = dtype_of(dst_type, torch.int8)
    return empty(x1, x1.shape, dtype), empty(x1, x1.shape, dtype), empty(x1, x1.shape)


def wanted_outputs(
    smooth_scale1: Tensor | None, smooth_scale2: Tensor | None, output_mask: list[bool] | None
) -> tuple[bool, bool]:
    """Which of y1 and y2 `npu_add_rms_norm_dynamic_quant` computes."""
    if output_mask:
        if not any(output_mask):
            raise ValueError("output_mask must ask for y1 or y2")
        return output_mask[0], output_mask[1]
    return True, smooth_scale1 is not None and smooth_scale2 is not None


def add_rms_norm_dynamic_quant(
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
    """(y1, y2, x1 + x2, scale1, scale2); an output that is off has shape [0]."""
    total = (x1 + x2).contiguous()
    values, _ = before_quantize(total, gamma, beta, epsilon)
    asked = wanted_outputs(smooth_scale1, smooth_scale2, output_mask)
    y1, scale1 = quantized_rows(values, smooth_scale1) if asked[0] else nothing(values)
    y2, scale2 = quantized_rows(values, smooth_scale2) if asked[1] else nothing(values)
    return y1, y2, total, scale1, scale2


def quantized_rows(values: Tensor, smooth_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Per-token int8 of float32 values, and the scale without its last dim."""
    y, scale = dynamic_int8(values if smooth_scale is None else values * smooth_scale.float())
    return y, scale.squeeze(-1)


def nothing(like: Tensor) -> tuple[Tensor, Tensor]:
    """An int8 result and its scale that were not asked for."""
    return empty(like, [0], torch.int8), empty(like, [0], torch.float32)


def fake_add_rms_norm_dynamic_quant(
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    *,
    smooth_scale1: Tensor | None = None,
    smooth_scale2: Tensor | None = None,
    output_mask: list[bool] | None = None,
    y_dtype: int | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(y1, y2, x1 + x2, scale1, scale2); an output that is off has shape [0]."""
    (y1, scale1), (y2, scale2) = (
        (empty(x1, x1.shape, torch.int8), empty(x1, x1.shape[:-1], torch.float32))
        if on
        else nothing(x1)
        for on in wanted_outputs(smooth_scale1, smooth_scale2, output_mask)
    )
    return y1, y2, empty(x1, x1.shape), scale1, scale2


def rms_norm_quant(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    scale: Tensor,
    offset: Tensor,
    epsilon: float = EPSILON,
    *,
    dst_dtype: int | None = None,
) -> Tensor:
    """int8 of `(norm(x) * gamma + beta) * scale + offset`."""
    values, _ = before_quantize(x, gamma.reshape(-1), beta.reshape(-1), epsilon)
    quantized = to_integer(scaled(values, scale, offset, False), dtype_of(dst_dtype, torch.int8))
    return quantized


def fake_rms_norm_quant(x: Tensor, *_: Any, dst_dtype: int | None = None, **__: Any) -> Tensor:
    """The quantized value, shaped like x."""
    return empty(x, x.shape, dtype_of(dst_dtype, torch.int8))


def rms_norm_quant_v2(
    x: Tensor,
    gamma: Tensor,
    scale: Tensor,
    *,
    offset: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = EPSILON,
    div_mode: bool = True,
    dst_dtype: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(quantized, rstd)."""
    values, rstd = before_quantize(x, gamma, beta, epsilon)
    quantized = to_integer(scaled(values, scale, offset, div_mode), dtype_of(dst_dtype, torch.int8))
    return quantized, rstd.contiguous()


def fake_rms_norm_quant_v2(
    x: Tensor, *_: Any, dst_dtype: int | None = None, **__: Any
) -> tuple[Tensor, Tensor]:
    """(quantized, rstd)."""
    dtype = dtype_of(dst_dtype, torch.int8)
    return empty(x, x.shape, dtype), empty(x, [*x.shape[:-1], 1], torch.float32)


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_add_rms_norm_quant",
        "npu_add_rms_norm_quant(Tensor x1, Tensor x2, Tensor gamma, Tensor scales1,"
        " Tensor? zero_points1, Tensor? beta=None, Tensor? scales2=None, Tensor? zero_points2=None,"
        " *, int axis=-1, float epsilon=1e-06, bool div_mode=True, int? dst_type=None)"
        " -> (Tensor, Tensor, Tensor)",
        fake_add_rms_norm_quant,
        add_rms_norm_quant,
        add_rms_norm_quant_limits,
        "torch_npu.npu_add_rms_norm_quant; aclnnAddRmsNormQuantV2",
        rows=("x1", "x2"),
        columns=("axis",),
        identity="sink_norm",
        accuracy=(QUANTIZED, HALF_SUM),
    ),
    Operator(
        "npu_add_rms_norm_dynamic_quant",
        "npu_add_rms_norm_dynamic_quant(Tensor x1, Tensor x2, Tensor gamma, *,"
        " Tensor? smooth_scale1=None, Tensor? smooth_scale2=None, Tensor? beta=None,"
        " float epsilon=1e-06, bool[2]? output_mask=None, int? y_dtype=None)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        fake_add_rms_norm_dynamic_quant,
        add_rms_norm_dynamic_quant,
        add_rms_norm_dynamic_quant_limits,
        "torch_npu.npu_add_rms_norm_dynamic_quant; aclnnAddRmsNormDynamicQuantV2",
        rows=("x1", "x2"),
        identity="sink_norm",
        accuracy=(
            Bound("y", LSB, halves(NEAREST_BEHIND), f"{BEHIND_NORM}; bfloat16: {BEHIND_SUM}"),
            HALF_SUM,
        ),
        converter="AddRmsNormDynamicQuant",
    ),
    Operator(
        "npu_rms_norm_quant",
        "npu_rms_norm_quant(Tensor x, Tensor gamma, Tensor beta, Tensor scale, Tensor offset,"
        " float epsilon=1e-06, *, int? dst_dtype=None) -> Tensor",
        fake_rms_norm_quant,
        rms_norm_quant,
        rms_norm_quant_limits,
        "torch_npu.npu_rms_norm_quant; aclnnRmsNormQuant",
        rows=("x",),
        identity="sink_norm",
        accuracy=(QUANTIZED,),
    ),
    Operator(
        "npu_rms_norm_quant_v2",
        "npu_rms_norm_quant_v2(Tensor x, Tensor gamma, Tensor scale, *, Tensor? offset=None,"
        " Tensor? beta=None, float epsilon=1e-06, bool div_mode=True, int? dst_dtype=None)"
        " -> (Tensor, Tensor)",
        fake_rms_norm_quant_v2,
        rms_norm_quant_v2,
        rms_norm_quant_v2_limits,
        "torch_npu.npu_rms_norm_quant_v2; aclnnRmsNormQuantV2",
        rows=("x",),
        identity="sink_norm",
        accuracy=(QUANTIZED,),
    ),
)
