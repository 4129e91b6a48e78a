"""Residual add, RMSNorm and a quantize by each row's largest value become one operator.

`npu_add_rms_norm_dynamic_quant` hands back the int8 rows, a float32 scale for each and the sum.
"""

from typing import Annotated

from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]


def pattern(x: Rows, residual: Rows, gamma: Gain, *, eps: float):
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    quantized, scale = npu.npu_dynamic_quant(y)
    return quantized, scale, total


def replacement(x: Tensor, residual: Tensor, gamma: Tensor, *, eps: float):
    quantized, _, total, scale, _ = npu.npu_add_rms_norm_dynamic_quant(
        x, residual, gamma, epsilon=eps, output_mask=[True, False]
    )
    return quantized, scale, total


rule = Rule(pattern, replacement, examples=[{"H": 64}, {"H": 5120}])
