"""An int8 product and the scales behind it become one `npu_quant_matmul`.

torch's own int8 matmul leaves its int32 sums to others to scale."""

import torch

from ascend_passes import Rule

from ._int8_sums import Channels, Half, Rows, RowScale, Weight, fused, scaled


def pattern(x: Rows, row_scale: RowScale, weight: Weight, channels: Channels, *, dtype: Half):
    return scaled(torch._int_mm(x, weight.permute(1, 0)), channels, row_scale, dtype)


def replacement(x, row_scale, weight, channels, *, dtype):
    return fused(x, row_scale, weight, channels, dtype)


rule = Rule(pattern, replacement, examples=[{"N": 32, "K": 64, "O": 96}])
