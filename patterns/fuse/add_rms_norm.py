"""Residual add and RMSNorm become one `npu_add_rms_norm`.

Every decoder block adds its input back and normalises the sum. The fused kernel reads both once and
hands back the sum for the next block.
"""

from typing import Annotated

from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]


def pattern(x: Rows, residual: Rows, gamma: Gain, *, eps: float):
    total = x + residual
    y, _ = npu.npu_rms_norm(total, gamma, eps)
    return y, total


def replacement(x: Tensor, residual: Tensor, gamma: Tensor, *, eps: float):
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return y, total


rule = Rule(pattern, replacement, examples=[{"H": 64}, {"H": 5120}])
