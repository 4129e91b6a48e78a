"""Rotate-half rope becomes `npu_rotary_mul`.

Limits of the operator: four dims, an even head size below 896.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Heads = Annotated[Tensor, "B A C D"]


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x times cos, plus x with swapped and signed halves times sin."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


HeadsLast = Annotated[Tensor, "B A 1 D"]
HeadsLastShared = Annotated[Tensor, "1 A 1 D"]
HeadsFirst = Annotated[Tensor, "B 1 C D"]
HeadsFirstShared = Annotated[Tensor, "1 1 C D"]


def heads_last(x: Heads, cos: HeadsLast, sin: HeadsLast):
    """Tokens, then heads; tables of each sequence."""
    return rotated(x, cos, sin)


def heads_last_shared(x: Heads, cos: HeadsLastShared, sin: HeadsLastShared):
    """Tokens, then heads; one table for all sequences."""
    return rotated(x, cos, sin)


def heads_first(x: Heads, cos: HeadsFirst, sin: HeadsFirst):
    """Heads, then tokens; tables of each sequence."""
    return rotated(x, cos, sin)


def heads_first_shared(x: Heads, cos: HeadsFirstShared, sin: HeadsFirstShared):
    """Heads, then tokens; one table for all sequences."""
    return rotated(x, cos, sin)


def replacement(x: Tensor, cos: Tensor, sin: Tensor):
    return npu.npu_rotary_mul(x, cos, sin, "half")


rule = Rule(
    [heads_last, heads_last_shared, heads_first, heads_first_shared],
    replacement,
    examples=[{"B": 2, "A": 5, "C": 4, "D": 64}],
    tolerance=2,  # in units of the largest term: the two products may cancel
)
