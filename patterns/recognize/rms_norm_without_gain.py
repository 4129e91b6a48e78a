"""RMSNorm without a gain becomes `npu_rms_norm` with a gain of ones, which is made once.

Llama 4 normalises queries and keys so, and `torch.nn.RMSNorm` with `elementwise_affine=False`.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]


def spelled(x: Rows, *, eps: float):
    """In plain operators."""
    wide = x.to(torch.float32)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def fused(x: Rows, *, eps: float):
    """aten's fused form."""
    y, _ = torch.ops.aten._fused_rms_norm.default(x, [x.shape[-1]], None, eps)
    return y


def replacement(x: Tensor, *, eps: float):
    y, _ = npu.npu_rms_norm(x, x.new_ones(x.shape[-1]), eps)
    return y


rule = Rule(
    [spelled, fused],
    replacement,
    examples=[{"H": 64}, {"H": 5120}],
    after=("rms_norm", "gemma_rms_norm", "gemma_rms_norm_heads"),  # it is a part of each of them
    tolerance=1,
)
