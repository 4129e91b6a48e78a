"""Gemma's RMSNorm, which scales by one plus its weight, becomes `npu_gemma_rms_norm`."""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]


def pattern(x: Rows, gamma: Gain, *, eps: float):
    wide = x.to(torch.float32)
    normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (normalized * (1.0 + gamma.to(torch.float32))).to(x.dtype)


def replacement(x: Tensor, gamma: Tensor, *, eps: float):
    y, _ = npu.npu_gemma_rms_norm(x, gamma, eps)
    return y


rule = Rule(
    pattern,
    replacement,
    examples=[{"H": 64}, {"H": 2560}],
    shares=True,  # layers with equal weights share one plus the weight
    tolerance=2,
)
