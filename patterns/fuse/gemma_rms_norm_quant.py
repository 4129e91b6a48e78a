"""Gemma's first RMSNorm and a quantize with one stored scale become one `npu_rms_norm_quant`.

As `rms_norm_quant`, with one plus the weight as the gain, which is computed once.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "1"]
INT8 = 1  # torch's number for the dtype, which the operator takes


def pattern(x: Rows, gamma: Gain, scale: Scale, *, eps: float):
    y, _ = npu.npu_gemma_rms_norm(x, gamma, eps)
    return npu.npu_quantize(y, scale, None, INT8, -1, True)


def replacement(x: Tensor, gamma: Tensor, scale: Tensor, *, eps: float):
    reciprocal, gain = (1 / scale.to(torch.float32)).to(x.dtype), gamma + 1
    zero = torch.zeros_like(scale, dtype=torch.int8)
    return npu.npu_rms_norm_quant(x, gain, torch.zeros_like(gain), reciprocal, zero, eps)


rule = Rule(
    pattern,
    replacement,
    examples=[{"H": 64}],
    limit="npu_rms_norm_quant gives one quantized row and no plain one",
    after=("add_gemma_rms_norm",),
)
