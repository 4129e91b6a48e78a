"""An int8 product of one row and the scales behind it become one `npu_quant_matmul`.

On CUDA torch's own int8 matmul wants 17 rows: who has one appends 16 and cuts them off again."""

import torch

from ascend_passes import Rule

from ._int8_sums import Channels, Half, OneRow, OneScale, Weight, fused, scaled


def pattern(x: OneRow, row_scale: OneScale, weight: Weight, channels: Channels, *, dtype: Half):
    rows = torch.constant_pad_nd(x, [0, 0, 0, 16], 0)
    return scaled(torch._int_mm(rows, weight.permute(1, 0))[:1], channels, row_scale, dtype)


def replacement(x, row_scale, weight, channels, *, dtype):
    return fused(x, row_scale, weight, channels, dtype)


rule = Rule(pattern, replacement, examples=[{"K": 64, "O": 96}])
