"""A matmul of an int8 row and an int8 weight with a bias behind it becomes `npu_quant_matmul`.

As `quant_matmul_static`; the operator adds the bias after its scale, in float32.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "N K", torch.int8]
Sequences = Annotated[Tensor, "B S K", torch.int8]
Weight = Annotated[Tensor, "O K", torch.int8]
Scale = Annotated[Tensor, "1"]
ChannelScale = Annotated[Tensor, "O 1"]
Bias = Annotated[Tensor, "O"]
CODES = {torch.float16: 5, torch.bfloat16: 15}  # torch's numbers for the result's dtype


def rows(x: Rows, weight: Weight, scale: Scale, channel_scale: ChannelScale, bias: Bias):
    """Rows in two dims."""
    read = (x.to(scale.dtype) * scale).reshape(-1, x.shape[-1])
    return torch.addmm(bias, read, (weight.to(scale.dtype) * channel_scale).permute(1, 0))


def sequences(x: Sequences, weight: Weight, scale: Scale, channel_scale: ChannelScale, bias: Bias):
    """Rows in three dims."""
    return rows(x, weight, scale, channel_scale, bias)


def replacement(x: Tensor, weight: Tensor, scale: Tensor, channel_scale: Tensor, bias: Tensor):
    factor = channel_scale.to(torch.float32).reshape(-1) * scale.to(torch.float32)
    read, code = x.reshape(-1, x.shape[-1]), CODES.get(scale.dtype)
    return npu.npu_quant_matmul(read, weight.permute(1, 0), factor, bias=bias, output_dtype=code)


def where(scale):
    yield scale.dtype in CODES, f"npu_quant_matmul gives float16 or bfloat16, not {scale.dtype}"


rule = Rule(
    [rows, sequences],
    replacement,
    where,
    examples=[{"N": 5, "B": 2, "S": 3, "K": 64, "O": 96}],
    shares=True,
)
