"""A matmul of int8 rows with a scale each and an int8 weight becomes `npu_quant_matmul`.

Both scales factor out of the sum, so the product is taken in integers, exactly, and scaled once.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "N K", torch.int8]
RowScale = Annotated[Tensor, "N", torch.float32]
Sequences = Annotated[Tensor, "B S K", torch.int8]
SequenceScale = Annotated[Tensor, "B S", torch.float32]
Weight = Annotated[Tensor, "O K", torch.int8]
ChannelScale = Annotated[Tensor, "O 1"]
CODES = {torch.float16: 5, torch.bfloat16: 15}  # torch's numbers for the result's dtype


def rows(x: Rows, row_scale: RowScale, weight: Weight, channel_scale: ChannelScale):
    """Rows in two dims."""
    read = (x.to(torch.float32) * row_scale.unsqueeze(-1)).to(channel_scale.dtype)
    factor = (weight.to(channel_scale.dtype) * channel_scale).permute(1, 0)
    return torch.mm(read.reshape(-1, x.shape[-1]), factor)


def sequences(x: Sequences, row_scale: SequenceScale, weight: Weight, channel_scale: ChannelScale):
    """Rows in three dims."""
    return rows(x, row_scale, weight, channel_scale)


def replacement(x: Tensor, weight: Tensor, row_scale: Tensor, channel_scale: Tensor):
    factor, code = channel_scale.to(torch.float32).reshape(-1), CODES.get(channel_scale.dtype)
    read, scale = x.reshape(-1, x.shape[-1]), row_scale.reshape(-1)
    given = {"pertoken_scale": scale, "output_dtype": code}
    return npu.npu_quant_matmul(read, weight.permute(1, 0), factor, **given)


def where(channel_scale):
    dtype = channel_scale.dtype
    yield dtype in CODES, f"npu_quant_matmul gives float16 or bfloat16, not {dtype}"


rule = Rule(
    [rows, sequences],
    replacement,
    where,
    examples=[{"N": 5, "B": 2, "S": 3, "K": 64, "O": 96}],
    shares=True,
)
