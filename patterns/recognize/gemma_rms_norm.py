"""Gemma's RMSNorm, which scales by one plus its weight, becomes `npu_gemma_rms_norm`.

Gemma 3 splits heads, moves them in front of the tokens and normalises each head. The norm works row
by row, so it commutes with the transposition; the operator wants contiguous rows, which lie in
front of it.
"""

from typing import Annotated, Literal, TypeVar

import torch
from torch import Tensor

from ascend_passes import Rule, npu

from ._rows import Gain, Rows, normalized

Heads = Annotated[Tensor, "B S N H"]
RowsOrHeads = TypeVar("Layout", Rows, Heads)
Moved = TypeVar("Layout", Literal[False], Literal[True])


def pattern(x: RowsOrHeads, gamma: Gain, *, eps: float, moved: Moved):
    rows = x.permute(0, 2, 1, 3) if moved else x
    return (normalized(rows, eps) * (1.0 + gamma.to(torch.float32))).to(x.dtype)


def replacement(x: Tensor, gamma: Tensor, *, eps: float, moved: bool):
    y, _ = npu.npu_gemma_rms_norm(x, gamma, eps)
    return y.permute(0, 2, 1, 3) if moved else y


rule = Rule(
    pattern,
    replacement,
    examples=[{"H": 64, "B": 2, "S": 5, "N": 4}, {"H": 2560}],
    shares=True,  # layers with equal weights share one plus the weight
    tolerance=2,
)
