"""Residual add, RMSNorm, a bias and a quantize with a stored scale become one
`npu_add_rms_norm_quant`; the bias is its `beta`.

As `add_rms_norm_quant`, which divides by the scale.
"""

from typing import Annotated

from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Bias = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "S"]
INT8 = 1  # torch's number for the dtype, which the operator takes


def plain(x: Rows, residual: Rows, gamma: Gain, bias: Bias, scale: Scale, *, eps: float):
    """Without a zero point."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return npu.npu_quantize(y + bias, scale, None, INT8, -1, True), total


def offset(
    x: Rows, residual: Rows, gamma: Gain, bias: Bias, scale: Scale, zero: Scale, *, eps: float
):
    """With a zero point."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return npu.npu_quantize(y + bias, scale, zero, INT8, -1, True), total


def replacement(x: Tensor, residual: Tensor, gamma: Tensor, bias, scale, zero=None, *, eps: float):
    whole, zeros = (t if t is None else t.expand(gamma.shape).contiguous() for t in (scale, zero))
    y, _, total = npu.npu_add_rms_norm_quant(
        x, residual, gamma, whole, zeros, beta=bias, epsilon=eps
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
