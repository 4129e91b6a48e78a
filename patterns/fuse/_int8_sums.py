"""What the rules about torch's own int8 matmul share: declarations, the scales and the operator."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from ascend_passes import npu

CODES = {torch.float16: 5, torch.bfloat16: 15}
Half = Literal[torch.bfloat16, torch.float16]
Rows = Annotated[Tensor, "N K", torch.int8]
RowScale = Annotated[Tensor, "N 1", torch.float32]
OneRow = Annotated[Tensor, "1 K", torch.int8]
OneScale = Annotated[Tensor, "1 1", torch.float32]
Weight = Annotated[Tensor, "O K", torch.int8]
Channels = Annotated[Tensor, "O", torch.float32]


def scaled(total: Tensor, channels: Tensor, row_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The sums in float32, times both scales, rounded once."""
    return (total.to(torch.float32) * channels * row_scale).to(dtype)


def fused(
    x: Tensor, row_scale: Tensor, weight: Tensor, channels: Tensor, dtype: torch.dtype
) -> Tensor:
    """The operator."""
    given = {"pertoken_scale": row_scale.reshape(-1), "output_dtype": CODES[dtype]}
    return npu.npu_quant_matmul(x, weight.permute(1, 0), channels, **given)
