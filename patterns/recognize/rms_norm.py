"""RMSNorm in every common spelling becomes `npu_rms_norm`.

The variance is taken in float32 everywhere; the spellings differ in where they round back to the
activation's dtype and in the dtype of the gain. The operator's documentation allows a float32 gain
beside half-precision activations."""

import torch

from ascend_passes import Rule, npu

from ._rows import WIDTHS, FloatGain, Gain, Rows, normalized


def llama(x: Rows, gamma: Gain, *, eps: float):
    """Hugging Face's Llama and Qwen: rounded to the activation's dtype before the gain."""
    return gamma * normalized(x, eps).to(x.dtype)


def gpt_oss(x: Rows, gamma: Gain | FloatGain, *, eps: float):
    """GPT-OSS and `torch.nn.RMSNorm`: rounded once, after the gain."""
    return (gamma * normalized(x, eps)).to(x.dtype)


def fused(x: Rows, gamma: Gain, *, eps: float):
    """aten's fused form."""
    return torch.ops.aten._fused_rms_norm.default(x, [x.shape[-1]], gamma, eps)[0]


def replacement(x, gamma, *, eps):
    return npu.npu_rms_norm(x, gamma, eps)[0]


# The operator rounds before the gain and after it, gpt_oss only after it.
rule = Rule([llama, gpt_oss, fused], replacement, examples=WIDTHS, tolerance=2)
