"""What the rules about matmuls of int8 rows share: declarations, the product and the operator."""

from typing import Annotated, TypeVar

import torch
from torch import Tensor

from ascend_passes import npu

Rows = Annotated[Tensor, "N K", torch.int8]
Sequences = Annotated[Tensor, "B S K", torch.int8]
RowScale = Annotated[Tensor, "N", torch.float32]
SequenceScale = Annotated[Tensor, "B S", torch.float32]
AnyRows = TypeVar("Rank", Rows, Sequences)
AnyRowScale = TypeVar("Rank", RowScale, SequenceScale)
Weight = Annotated[Tensor, "O K", torch.int8]
Channels = Annotated[Tensor, "O 1"]
WideChannels = Annotated[Tensor, "O 1", torch.float32]
Bias = Annotated[Tensor, "O"]
Scale = Annotated[Tensor, "1"]
Zero = Annotated[Tensor, "1", torch.int8]
CODES = {torch.float16: 5, torch.bfloat16: 15}  # torch's numbers for the result's dtype


def product(read: Tensor, weight: Tensor, channels: Tensor, bias: Tensor | None) -> Tensor:
    """Rows, read back, times the weight, read back in the dtype of its scales and rounded once."""
    factor = (weight.to(channels.dtype) * channels).to(read.dtype).permute(1, 0)
    rows = read.reshape(-1, read.shape[-1])
    return torch.mm(rows, factor) if bias is None else torch.addmm(bias, rows, factor)


def fused(x: Tensor, weight: Tensor, factor: Tensor, given) -> Tensor:
    """The operator on the rows, with `factor` for each channel."""
    return npu.npu_quant_matmul(x.reshape(-1, x.shape[-1]), weight.permute(1, 0), factor, **given)
