"""Residual add, RMSNorm and a quantize with a stored scale become one `npu_add_rms_norm_quant`.

The operator takes a scale of the gain's shape, so a single one is spread over the row; that depends
on a parameter alone and happens once. This is the form whose scale
divides, as checkpoints store it.
"""

from typing import Annotated

from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "S"]
INT8 = 1  # torch's number for the dtype, which the operator takes


def pattern(x: Rows, residual: Rows, gamma: Gain, scale: Scale, *, eps: float):
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return npu.npu_quantize(y, scale, None, INT8, -1, True), total


def replacement(x: Tensor, residual: Tensor, gamma: Tensor, scale: Tensor, *, eps: float):
    whole = scale.expand(gamma.shape).contiguous()
    y, _, total = npu.npu_add_rms_norm_quant(x, residual, gamma, whole, None, epsilon=eps)
    return y, total


def where(S, H):
    yield S == 1 or S == H, f"the scale has {S} numbers, the operator wants one or {H}"


rule = Rule(
    pattern,
    replacement,
    where,
    examples=[{"H": 64, "S": 1}, {"H": 256, "S": 256}],
)
