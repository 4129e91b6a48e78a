"""Rope as a complex product becomes `npu_rotary_mul` on interleaved pairs.

The real and imaginary parts of the factor are the cosine and the sine; each serves two neighbours.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Heads = Annotated[Tensor, "B S N 2*P"]
Factor = Annotated[Tensor, "1 S 1 P", torch.complex64]


def pattern(x: Heads, factor: Factor):
    pairs = x.float().reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    return torch.view_as_real(torch.view_as_complex(pairs) * factor).flatten(3).type_as(x)


def replacement(x: Tensor, factor: Tensor):
    tables = torch.view_as_real(factor)
    cos, sin = (tables[..., part].repeat_interleave(2, -1) for part in (0, 1))
    return npu.npu_rotary_mul(x, cos.to(x.dtype), sin.to(x.dtype), "interleave")


rule = Rule(
    pattern,
    replacement,
    examples=[{"B": 2, "S": 5, "N": 4, "P": 32}],
    shares=True,
    tolerance=4,  # half precision rounds the tables, which the complex product keeps in float32
)
