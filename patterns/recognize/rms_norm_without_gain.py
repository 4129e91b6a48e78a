"""RMSNorm without a gain becomes `npu_rms_norm` with a gain of ones, which is made once.

Llama 4 normalises queries and keys so, and `torch.nn.RMSNorm` with `elementwise_affine=False`."""

import torch

from ascend_passes import Rule, npu

from ._rows import WIDTHS, Rows, normalized


def spelled(x: Rows, *, eps: float):
    """In plain operators."""
    return normalized(x, eps).to(x.dtype)


def fused(x: Rows, *, eps: float):
    """aten's form."""
    return torch.ops.aten._fused_rms_norm.default(x, [x.shape[-1]], None, eps)[0]


def replacement(x, *, eps):
    ones = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
    return npu.npu_rms_norm(x, ones, eps)[0]


WHOLE = ("rms_norm", "gemma_rms_norm")  # it is a part of each of them
rule = Rule([spelled, fused], replacement, examples=WIDTHS, after=WHOLE)
