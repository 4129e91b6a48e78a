"""A matmul of int8 rows with a scale each and an int8 weight becomes `npu_quant_matmul`.

Both scales factor out of the sum, so the product is taken in integers, exactly, and scaled once;
the bias is added behind it, in float32."""

import torch

from ascend_passes import Rule

from ._int8 import CODES, AnyRows, AnyRowScale, Bias, Channels, Weight, WideChannels, fused, product


def read(x, row_scale, dtype: torch.dtype):
    """The rows, read back in float32 and rounded once."""
    return (x.to(torch.float32) * row_scale.unsqueeze(-1)).to(dtype)


def pattern(
    x: AnyRows, row_scale: AnyRowScale, weight: Weight, channels: Channels, bias: Bias | None
):
    """compressed-tensors: the weight's scales in the dtype of the result."""
    return product(read(x, row_scale, channels.dtype), weight, channels, bias)


def wide(
    x: AnyRows, row_scale: AnyRowScale, weight: Weight, channels: WideChannels, bias: Bias | None
):
    """torch.ao: in float32; without a bias, the result is bfloat16."""
    dtype = torch.bfloat16 if bias is None else bias.dtype
    return product(read(x, row_scale, dtype), weight, channels, bias)


def replacement(x, row_scale, weight, channels, bias):
    dtypes = [t.dtype for t in (channels, bias) if t is not None and t.dtype in CODES]
    factor, code = channels.to(torch.float32).reshape(-1), CODES[(*dtypes, torch.bfloat16)[0]]
    given = {"pertoken_scale": row_scale.reshape(-1), "bias": bias, "output_dtype": code}
    return fused(x, weight, factor, given)


SIZES = [{"N": 5, "B": 2, "S": 3, "K": 64, "O": 96}]
rule = Rule([pattern, wide], replacement, examples=SIZES, dtypes=tuple(CODES), shares=True)
