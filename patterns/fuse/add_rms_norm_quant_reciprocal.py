"""Residual add, RMSNorm and a quantize with a reciprocal scale become one `npu_add_rms_norm_quant`.

The operator multiplies by the scale, as vllm-ascend keeps it. It wants a scale and a zero point of
the gain's shape, float32 and int32 beside float16.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "S"]
INT8 = 1  # torch's number for the dtype, which the operator takes


def plain(x: Rows, residual: Rows, gamma: Gain, scale: Scale, *, eps: float):
    """Without a zero point."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return npu.npu_quantize(y, scale, None, INT8, -1, False), total


def offset(x: Rows, residual: Rows, gamma: Gain, scale: Scale, zero: Scale, *, eps: float):
    """With a zero point."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return npu.npu_quantize(y, scale, zero, INT8, -1, False), total


def replacement(x: Tensor, residual: Tensor, gamma: Tensor, scale: Tensor, zero=None, *, eps):
    wide = (torch.float32, torch.int32) if x.dtype == torch.float16 else (x.dtype, x.dtype)
    whole = scale.expand(gamma.shape).contiguous().to(wide[0])
    zeros = None if zero is None else zero.expand(gamma.shape).contiguous().to(wide[1])
    y, _, total = npu.npu_add_rms_norm_quant(
        x, residual, gamma, whole, zeros, epsilon=eps, div_mode=False
    )
    return y, total


def where(S, H):
    yield S == 1 or S == H, f"the scale has {S} numbers, the operator wants one or {H}"


rule = Rule(
    [plain, offset],
    replacement,
    where,
    examples=[{"H": 64, "S": 1}, {"H": 256, "S": 256}],
    limit="npu_add_rms_norm_quant gives two quantized rows at most and no plain one",
)
