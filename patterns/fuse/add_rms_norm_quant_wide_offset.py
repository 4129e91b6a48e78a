"""Residual add, RMSNorm and a quantize with a float32 scale and an int32 zero point become one
`npu_add_rms_norm_quant`.

As `add_rms_norm_quant`; on A2 and A3 this is the form of float16 rows.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
WideScale = Annotated[Tensor, "S", torch.float32]
WideZero = Annotated[Tensor, "S", torch.int32]
INT8 = 1  # torch's number for the dtype, which the operator takes


def pattern(x: Rows, residual: Rows, gamma: Gain, scale: WideScale, zero: WideZero, *, eps: float):
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return npu.npu_quantize(y, scale, zero, INT8, -1, True), total


def replacement(x: Tensor, residual: Tensor, gamma: Tensor, scale: Tensor, zero: Tensor, *, eps):
    whole, zeros = (tensor.expand(gamma.shape).contiguous() for tensor in (scale, zero))
    y, _, total = npu.npu_add_rms_norm_quant(x, residual, gamma, whole, zeros, epsilon=eps)
    return y, total


def where(S, H):
    yield S == 1 or S == H, f"the scale has {S} numbers, the operator wants one or {H}"


rule = Rule(
    pattern,
    replacement,
    where,
    examples=[{"H": 64, "S": 1}, {"H": 256, "S": 256}],
    limit="npu_add_rms_norm_quant gives two quantized rows at most and no plain one",
)
