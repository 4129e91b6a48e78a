"""A matmul of rows with a scale each and a float32-scaled weight, with a bias, becomes
`npu_quant_matmul`.

As `quant_matmul_dynamic_decomposed`; the operator adds the bias after both scales, in float32.
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
Channels = Annotated[Tensor, "O 1", torch.float32]
Bias = Annotated[Tensor, "O"]
CODES = {torch.float16: 5, torch.bfloat16: 15}  # torch's numbers for the result's dtype


def product(x: Tensor, row_scale: Tensor, weight: Tensor, channels: Tensor, bias: Tensor):
    """The rows, read back, times the weight, read back."""
    read = (x.to(torch.float32) * row_scale.unsqueeze(-1)).to(bias.dtype)
    factor = (weight.to(torch.float32) * channels).to(bias.dtype)
    return torch.addmm(bias, read.reshape(-1, x.shape[-1]), factor.permute(1, 0))


def rows(x: Rows, row_scale: RowScale, weight: Weight, channels: Channels, bias: Bias):
    """Rows in two dims."""
    return product(x, row_scale, weight, channels, bias)


def sequences(
    x: Sequences, row_scale: SequenceScale, weight: Weight, channels: Channels, bias: Bias
):
    """Rows in three dims."""
    return product(x, row_scale, weight, channels, bias)


def replacement(x: Tensor, row_scale: Tensor, weight: Tensor, channels: Tensor, bias: Tensor):
    rows, scale, factor = x.reshape(-1, x.shape[-1]), row_scale.reshape(-1), channels.reshape(-1)
    given = {"pertoken_scale": scale, "bias": bias, "output_dtype": CODES.get(bias.dtype)}
    return npu.npu_quant_matmul(rows, weight.permute(1, 0), factor, **given)


rule = Rule(
    [rows, sequences],
    replacement,
    examples=[{"N": 5, "B": 2, "S": 3, "K": 64, "O": 96}],
    dtypes=tuple(CODES),
    shares=True,
    tolerance=float("inf"),  # the spelled-out form rounds each factor
)
