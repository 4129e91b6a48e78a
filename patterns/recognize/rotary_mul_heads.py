"""Rotate-half rope of transposed heads moves in front of the transposition.

Hugging Face splits heads, moves them in front of the tokens and rotates. Rotation works row by row,
so it commutes with the transposition; in front of it the rows lie as the operator reads them, and
the result has the strides that the spelled-out form has."""

from typing import Annotated, TypeVar

import torch

from ascend_passes import Rule, npu

Heads = Annotated[torch.Tensor, "B S N D"]
Own = Annotated[torch.Tensor, "B S D"]  # tables of each sequence
Shared = Annotated[torch.Tensor, "1 S D"]  # one table for all sequences
Table = TypeVar("Table", Own, Shared)


def pattern(x: Heads, cos: Table, sin: Table):
    heads, half = x.permute(0, 2, 1, 3), x.shape[-1] // 2
    swapped = torch.cat([-heads[..., half:], heads[..., :half]], -1)
    return heads * cos.unsqueeze(1) + swapped * sin.unsqueeze(1)


def replacement(x, cos, sin):
    return npu.npu_rotary_mul(x, cos.unsqueeze(2), sin.unsqueeze(2), "half").permute(0, 2, 1, 3)


EXAMPLES = [{"B": 2, "S": 5, "N": 4, "D": 64}, {"B": 1, "S": 1, "N": 64, "D": 128}]
# The tables' unsqueeze serves every layer.
rule = Rule(pattern, replacement, examples=EXAMPLES, shares=True, tolerance=2)
