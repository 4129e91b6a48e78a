"""An int8 product of one row and the scales behind it become one `npu_quant_matmul`.

On CUDA torch's own int8 matmul wants 17 rows: who has one appends 16 and cuts them off again."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from ascend_passes import Rule, npu

CODES = {torch.float16: 5, torch.bfloat16: 15}
Half = Literal[torch.bfloat16, torch.float16]
OneRow = Annotated[Tensor, "1 K", torch.int8]
OneScale = Annotated[Tensor, "1 1", torch.float32]
Weight = Annotated[Tensor, "O K", torch.int8]
Channels = Annotated[Tensor, "O", torch.float32]


def pattern(x: OneRow, row_scale: OneScale, weight: Weight, channels: Channels, *, dtype: Half):
    rows = torch.constant_pad_nd(x, [0, 0, 0, 16], 0)
    total = torch._int_mm(rows, weight.permute(1, 0))[:1]
    return (total.to(torch.float32) * channels * row_scale).to(dtype)


def replacement(x, row_scale, weight, channels, *, dtype):
    given = {"pertoken_scale": row_scale.reshape(-1), "output_dtype": CODES[dtype]}
    return npu.npu_quant_matmul(x, weight.permute(1, 0), channels, **given)


rule = Rule(pattern, replacement, examples=[{"K": 64, "O": 96}])
