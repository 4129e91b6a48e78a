"""A matmul of an int8 row that has a zero point, with a bias, becomes `npu_quant_matmul`.

As `quant_matmul_static_offset`; the operator adds one bias, so the zero point's part joins the
model's own in float32, behind the scale.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "N K", torch.int8]
Sequences = Annotated[Tensor, "B S K", torch.int8]
Weight = Annotated[Tensor, "O K", torch.int8]
Scale = Annotated[Tensor, "1"]
Channels = Annotated[Tensor, "O 1", torch.float32]
Bias = Annotated[Tensor, "O"]
Zero = Annotated[Tensor, "1", torch.int8]
BFLOAT16 = 15  # torch's number for the result's dtype


def rows(x: Rows, weight: Weight, scale: Scale, channels: Channels, bias: Bias, zero: Zero):
    """Rows in two dims."""
    row = ((x.to(scale.dtype) - zero) * scale).reshape(-1, x.shape[-1])
    factor = (weight.to(torch.float32) * channels).to(scale.dtype).permute(1, 0)
    return torch.addmm(bias, row, factor)


def sequences(
    x: Sequences, weight: Weight, scale: Scale, channels: Channels, bias: Bias, zero: Zero
):
    """Rows in three dims."""
    return rows(x, weight, scale, channels, bias, zero)


def replacement(
    x: Tensor, weight: Tensor, scale: Tensor, channels: Tensor, bias: Tensor, zero: Tensor
):
    factor = channels.reshape(-1) * scale.to(torch.float32)
    bias = bias.to(torch.float32) - weight.sum(1, dtype=torch.int32) * zero * factor
    rows, columns = x.reshape(-1, x.shape[-1]), weight.permute(1, 0)
    return npu.npu_quant_matmul(rows, columns, factor, bias=bias, output_dtype=BFLOAT16)


rule = Rule(
    [rows, sequences],
    replacement,
    examples=[{"N": 5, "B": 2, "S": 3, "K": 64, "O": 96}],
    dtypes=(torch.bfloat16,),  # float16 wants an int64 scale
    shares=True,
    tolerance=float("inf"),  # the spelled-out form rounds each factor
)
