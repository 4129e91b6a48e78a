"""Rotate-half rope becomes `npu_rotary_mul`.

Limits of the operator: four dims, an even head size below 896."""

from typing import Annotated, TypeVar

import torch

from ascend_passes import Rule, npu

Vectors = Annotated[torch.Tensor, "B A C D"]
Last = Annotated[torch.Tensor, "B A 1 D"]  # tokens, then heads; tables of each sequence
LastShared = Annotated[torch.Tensor, "1 A 1 D"]  # one table for all sequences
First = Annotated[torch.Tensor, "B 1 C D"]  # heads, then tokens
FirstShared = Annotated[torch.Tensor, "1 1 C D"]
Table = TypeVar("Table", Last, LastShared, First, FirstShared)


def pattern(x: Vectors, cos: Table, sin: Table):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def replacement(x, cos, sin):
    return npu.npu_rotary_mul(x, cos, sin, "half")


# In units of the largest term: the two products may cancel.
rule = Rule(pattern, replacement, examples=[{"B": 2, "A": 5, "C": 4, "D": 64}], tolerance=2)
