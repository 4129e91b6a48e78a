"""RMSNorm and a quantize with one reciprocal scale become one `npu_rms_norm_quant`.

As `rms_norm_quant`, whose operator multiplies by its scale; a bias is its `beta`.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Bias = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "1"]
INT8 = 1  # torch's number for the dtype, which the operator takes


def plain(x: Rows, gamma: Gain, scale: Scale, *, eps: float):
    """Without a bias."""
    y, _ = npu.npu_rms_norm(x, gamma, eps)
    return npu.npu_quantize(y, scale, None, INT8, -1, False)


def biased(x: Rows, gamma: Gain, scale: Scale, bias: Bias, *, eps: float):
    """With a bias behind the norm."""
    y, _ = npu.npu_rms_norm(x, gamma, eps)
    return npu.npu_quantize(y + bias, scale, None, INT8, -1, False)


def replacement(x: Tensor, gamma: Tensor, scale: Tensor, bias=None, *, eps: float):
    beta = torch.zeros_like(gamma) if bias is None else bias
    zero = torch.zeros_like(scale, dtype=torch.int8)
    return npu.npu_rms_norm_quant(x, gamma, beta, scale, zero, eps)


rule = Rule(
    [plain, biased],
    replacement,
    examples=[{"H": 64}],
    limit="npu_rms_norm_quant gives one quantized row and no plain one",
    after=("add_rms_norm",),
)
