"""RMSNorm without a gain becomes `npu_rms_norm` with a gain of ones, which is made once.

Llama 4 normalises queries and keys so, and `torch.nn.RMSNorm` with `elementwise_affine=False`.
"""

import torch
from torch import Tensor

from ascend_passes import Rule, npu

from ._rows import Rows, normalized


def spelled(x: Rows, *, eps: float):
    """In plain operators."""
    return normalized(x, eps).to(x.dtype)


def fused(x: Rows, *, eps: float):
    """aten's fused form."""
    y, _ = torch.ops.aten._fused_rms_norm.default(x, [x.shape[-1]], None, eps)
    return y


def replacement(x: Tensor, *, eps: float):
    ones = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
    y, _ = npu.npu_rms_norm(x, ones, eps)
    return y


rule = Rule(
    [spelled, fused],
    replacement,
    examples=[{"H": 64}, {"H": 5120}],
    after=("rms_norm", "gemma_rms_norm"),  # it is a part of each of them
    tolerance=1,
)
