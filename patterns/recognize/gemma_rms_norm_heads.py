"""Gemma's RMSNorm of transposed heads moves in front of the transposition.

Gemma 3 splits heads, moves them in front of the tokens and normalises each head. The norm works row
by row, so it commutes with the transposition; the operator wants contiguous rows, which lie in
front of it.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Heads = Annotated[Tensor, "B S N D"]
Gain = Annotated[Tensor, "D"]


def pattern(x: Heads, gamma: Gain, *, eps: float):
    wide = x.permute(0, 2, 1, 3).to(torch.float32)
    normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (normalized * (1.0 + gamma.to(torch.float32))).to(x.dtype)


def replacement(x: Tensor, gamma: Tensor, *, eps: float):
    y, _ = npu.npu_gemma_rms_norm(x, gamma, eps)
    return y.permute(0, 2, 1, 3)


rule = Rule(
    pattern,
    replacement,
    examples=[{"B": 2, "S": 5, "N": 4, "D": 64}],
    shares=True,  # layers with equal weights share one plus the weight
    tolerance=2,
)
