"""Residual add, RMSNorm and a quantize with a stored scale become one `npu_add_rms_norm_quant`.

The operator takes a scale of the gain's shape, so a single one is spread over the row, once. This
form divides by the scale, as checkpoints store it. On A2 and A3 float16 rows want a float32 scale
and an int32 zero point, bfloat16 rows want both in bfloat16.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "S"]
WideScale = Annotated[Tensor, "S", torch.float32]
INT8 = 1  # torch's number for the dtype, which the operator takes


def quantized(x: Tensor, residual: Tensor, gamma: Tensor, scale: Tensor, zero, eps: float):
    """The rows and the sum."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return npu.npu_quantize(y, scale, zero, INT8, -1, True), total


def plain(x: Rows, residual: Rows, gamma: Gain, scale: Scale, *, eps: float):
    """A scale of the rows' dtype."""
    return quantized(x, residual, gamma, scale, None, eps)


def wide(x: Rows, residual: Rows, gamma: Gain, scale: WideScale, *, eps: float):
    """A float32 scale."""
    return quantized(x, residual, gamma, scale, None, eps)


def offset(x: Rows, residual: Rows, gamma: Gain, scale: Scale, zero: Scale, *, eps: float):
    """A zero point of the rows' dtype."""
    return quantized(x, residual, gamma, scale, zero, eps)


def replacement(x: Tensor, residual: Tensor, gamma: Tensor, scale: Tensor, zero=None, *, eps):
    whole, zeros = (t if t is None else t.expand(gamma.shape).contiguous() for t in (scale, zero))
    y, _, total = npu.npu_add_rms_norm_quant(x, residual, gamma, whole, zeros, epsilon=eps)
    return y, total


def where(S, H):
    yield S == 1 or S == H, f"the scale has {S} numbers, the operator wants one or {H}"


rule = Rule(
    [plain, wide, offset],
    replacement,
    where,
    examples=[{"H": 64, "S": 1}, {"H": 256, "S": 256}],
    limit="npu_add_rms_norm_quant gives two quantized rows at most and no plain one",
)
