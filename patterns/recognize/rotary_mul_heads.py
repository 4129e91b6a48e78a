"""Rotate-half rope of transposed heads moves in front of the transposition.

Hugging Face splits heads, moves them in front of the tokens and rotates. Rotation works row by row,
so it commutes with the transposition; in front of it the rows lie as the operator reads them, and
the result has the strides that the spelled-out form has.
"""

from typing import Annotated, TypeVar

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Heads = Annotated[Tensor, "B S N D"]
Own = Annotated[Tensor, "B S D"]  # tables of each sequence
Shared = Annotated[Tensor, "1 S D"]  # one table for all sequences
Table = TypeVar("Table", Own, Shared)


def pattern(x: Heads, cos: Table, sin: Table):
    heads, half = x.permute(0, 2, 1, 3), x.shape[-1] // 2
    swapped = torch.cat([-heads[..., half:], heads[..., :half]], -1)
    return heads * cos.unsqueeze(1) + swapped * sin.unsqueeze(1)


def replacement(x: Tensor, cos: Tensor, sin: Tensor):
    return npu.npu_rotary_mul(x, cos.unsqueeze(2), sin.unsqueeze(2), "half").permute(0, 2, 1, 3)


rule = Rule(
    pattern,
    replacement,
    examples=[{"B": 2, "S": 5, "N": 4, "D": 64}, {"B": 1, "S": 1, "N": 64, "D": 128}],
    shares=True,  # the tables' unsqueeze serves every layer
    tolerance=2,
)
