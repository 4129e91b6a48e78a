"""Residual add and RMSNorm become one `npu_add_rms_norm`.

Every decoder block adds its input back and normalises the sum. The fused kernel reads both once and
hands back the sum for the next block. It takes no float32 gain beside half-precision rows, as
`npu_rms_norm` alone does: such a norm stays, and is told.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

from ._quantized import Gain, Rows

FloatGain = Annotated[Tensor, "H", torch.float32]


def pattern(x: Rows, residual: Rows, gamma: Gain | FloatGain, *, eps: float):
    total = x + residual
    y, _ = npu.npu_rms_norm(total, gamma, eps)
    return y, total


def replacement(x: Tensor, residual: Tensor, gamma: Tensor, *, eps: float):
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return y, total


rule = Rule(pattern, replacement, examples=[{"H": 64}, {"H": 5120}])
