"""RMSNorm and a quantize with one stored scale become one `npu_rms_norm_quant`.

The first norm of a model has no residual. The operator multiplies by its scale, adds a bias and
takes an int8 zero point, so it gets the reciprocal and zeros, which depend on parameters alone and
are made once.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "1"]
Zero = Annotated[Tensor, "1", torch.int8]
INT8 = 1  # torch's number for the dtype, which the operator takes


def plain(x: Rows, gamma: Gain, scale: Scale, *, eps: float):
    """Without a zero point."""
    y, _ = npu.npu_rms_norm(x, gamma, eps)
    return npu.npu_quantize(y, scale, None, INT8, -1, True)


def offset(x: Rows, gamma: Gain, scale: Scale, zero: Zero, *, eps: float):
    """With a zero point of int8, in the dtype of the rows."""
    y, _ = npu.npu_rms_norm(x, gamma, eps)
    return npu.npu_quantize(y, scale, zero.to(x.dtype), INT8, -1, True)


def replacement(x: Tensor, gamma: Tensor, scale: Tensor, zero=None, *, eps: float):
    reciprocal = (1 / scale.to(torch.float32)).to(x.dtype)
    offset = torch.zeros_like(scale, dtype=torch.int8) if zero is None else zero
    return npu.npu_rms_norm_quant(x, gamma, torch.zeros_like(gamma), reciprocal, offset, eps)


rule = Rule(
    [plain, offset],
    replacement,
    examples=[{"H": 64}],
    limit="npu_rms_norm_quant gives one quantized row and no plain one",
    after=("add_rms_norm",),
)
