"""One sum, normalised and quantized with two reciprocal scales, becomes one operator.

As `add_rms_norm_quant_two`, `npu_add_rms_norm_quant`; float16 rows want their scales in float32.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Bias = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "S"]
INT8 = 1  # torch's number for the dtype, which the operator takes


def quantized(x: Tensor, residual: Tensor, gamma: Tensor, bias, scales, eps: float):
    """Both rows and the sum."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    y = y if bias is None else y + bias
    return *(npu.npu_quantize(y, scale, None, INT8, -1, False) for scale in scales), total


def plain(x: Rows, residual: Rows, gamma: Gain, scale: Scale, scale2: Scale, *, eps: float):
    """Without a bias."""
    return quantized(x, residual, gamma, None, (scale, scale2), eps)


def biased(
    x: Rows, residual: Rows, gamma: Gain, scale: Scale, scale2: Scale, bias: Bias, *, eps: float
):
    """With a bias, the operator's `beta`."""
    return quantized(x, residual, gamma, bias, (scale, scale2), eps)


def replacement(x, residual, gamma: Tensor, scale: Tensor, scale2: Tensor, bias=None, *, eps):
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    whole, whole2 = (one.expand(gamma.shape).contiguous().to(dtype) for one in (scale, scale2))
    given = {"scales2": whole2, "epsilon": eps, "div_mode": False}
    return npu.npu_add_rms_norm_quant(x, residual, gamma, whole, None, bias, **given)


def where(S, H):
    yield S == 1 or S == H, f"the scale has {S} numbers, the operator wants one or {H}"


rule = Rule(
    [plain, biased],
    replacement,
    where,
    examples=[{"H": 64, "S": 1}],
    limit="npu_add_rms_norm_quant gives two quantized rows at most and no plain one",
)
