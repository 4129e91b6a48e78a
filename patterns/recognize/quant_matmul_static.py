"""A matmul of an int8 row and an int8 weight, both read back first, becomes `npu_quant_matmul`.

The scales factor out of the sum, so the product is taken in integers, exactly, and scaled once, by
the product of both in float32; the bias is added behind it, in float32. torch.ao reads the weight
back in float32. A row's zero point adds itself times the sum of a channel's weights: an int32 bias,
or in float32 a part of the model's own. What depends on parameters alone is computed once."""

import torch

from ascend_passes import Rule

from . import _int8 as int8


def pattern(
    x: int8.Rows | int8.Sequences,
    weight: int8.Weight,
    scale: int8.Scale,
    channels: int8.Channels | int8.WideChannels,
    zero: int8.Zero | None,
    bias: int8.Bias | None,
):
    row = x.to(scale.dtype)
    return int8.product((row if zero is None else row - zero) * scale, weight, channels, bias)


def replacement(x, weight, scale, channels, zero, bias):
    factor = channels.to(torch.float32).reshape(-1) * scale.to(torch.float32)
    if zero is not None:
        sums = weight.sum(1, dtype=torch.int32)
        own = None if bias is None else bias.to(torch.float32) - sums * zero * factor
        bias = sums * -zero.to(torch.int32) if own is None else own
    given = {"bias": bias, "output_dtype": int8.CODES.get(scale.dtype)}
    return int8.fused(x, weight, factor, given)


def where(scale):
    fits = scale.dtype in int8.CODES
    yield fits, f"npu_quant_matmul gives float16 or bfloat16, not {scale.dtype}"


ROWS = {"N": 5, "B": 2, "S": 3, "K": 64, "O": 96}
rule = Rule(pattern, replacement, where, examples=[ROWS], shares=True)
