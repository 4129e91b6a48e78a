"""A matmul of an int8 row and a float32-scaled int8 weight becomes `npu_quant_matmul`.

As `quant_matmul_static`, where torch.ao reads the weight back: in float32, rounded once.
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
BFLOAT16 = 15  # torch's number for the result's dtype


def rows(x: Rows, weight: Weight, scale: Scale, channels: Channels):
    """Rows in two dims."""
    row = (x.to(scale.dtype) * scale).reshape(-1, x.shape[-1])
    factor = (weight.to(torch.float32) * channels).to(scale.dtype).permute(1, 0)
    return torch.mm(row, factor)


def sequences(x: Sequences, weight: Weight, scale: Scale, channels: Channels):
    """Rows in three dims."""
    return rows(x, weight, scale, channels)


def replacement(x: Tensor, weight: Tensor, scale: Tensor, channels: Tensor):
    factor = channels.reshape(-1) * scale.to(torch.float32)
    rows, columns = x.reshape(-1, x.shape[-1]), weight.permute(1, 0)
    return npu.npu_quant_matmul(rows, columns, factor, output_dtype=BFLOAT16)


rule = Rule(
    [rows, sequences],
    replacement,
    examples=[{"N": 5, "B": 2, "S": 3, "K": 64, "O": 96}],
    dtypes=(torch.bfloat16,),  # float16 wants an int64 scale
    shares=True,
    tolerance=float("inf"),  # the spelled-out form rounds each factor
)
