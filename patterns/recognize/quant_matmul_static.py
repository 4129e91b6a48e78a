"""A matmul of an int8 row and an int8 weight, both read back first, becomes `npu_quant_matmul`.

The scales factor out of the sum, so the product is taken in integers, exactly, and scaled once, by
the product of both in float32; the bias is added behind it, in float32. torch.ao reads the weight
back in float32. A row's zero point adds itself times the sum of a channel's weights: an int32 bias,
or in float32 a part of the model's own. What depends on parameters alone is computed once.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

from ._int8 import CODES, Bias, Channels, Rows, Sequences, Weight, WideChannels, product

Scale = Annotated[Tensor, "1"]
Zero = Annotated[Tensor, "1", torch.int8]


def pattern(
    x: Rows | Sequences,
    weight: Weight,
    scale: Scale,
    channels: Channels | WideChannels,
    zero: Zero | None,
    bias: Bias | None,
):
    row = x.to(scale.dtype)
    return product((row if zero is None else row - zero) * scale, weight, channels, bias)


def replacement(x, weight, scale, channels, zero, bias):
    factor = channels.to(torch.float32).reshape(-1) * scale.to(torch.float32)
    if zero is not None:
        sums = weight.sum(1, dtype=torch.int32)
        own = None if bias is None else bias.to(torch.float32) - sums * zero * factor
        bias = sums * -zero.to(torch.int32) if own is None else own
    given = {"bias": bias, "output_dtype": CODES.get(scale.dtype)}
    return npu.npu_quant_matmul(x.reshape(-1, x.shape[-1]), weight.permute(1, 0), factor, **given)


def where(scale):
    yield scale.dtype in CODES, f"npu_quant_matmul gives float16 or bfloat16, not {scale.dtype}"


rule = Rule(
    pattern,
    replacement,
    where,
    examples=[{"N": 5, "B": 2, "S": 3, "K": 64, "O": 96}],
    shares=True,
)
