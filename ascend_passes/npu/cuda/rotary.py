"""Rotary embedding as one kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ascend_passes.npu.cuda.launch import Launch, require_rows, require_that
from ascend_passes.npu.kernels.rotary_heads import rotary_heads
from ascend_passes.npu.rotary import HALF, INTERLEAVE

HEADS_AT_ONCE = 8
WARPS = 4


def rotary_mul_kernel(
    launch: Launch,
    input: Tensor,
    r1: Tensor,
    r2: Tensor,
    rotary_mode: str = HALF,
    rotate: Tensor | None = None,
) -> Tensor:
    """`npu_rotary_mul` by this launch where the cosines are those of a token, shared by its heads:
    `[B, S, N, D]` with `[B, S, 1, D]`."""
    require_that(rotate is None and rotary_mode in (HALF, INTERLEAVE), "the mode %s", rotary_mode)
    require_rows(input, r1, r2)
    require_that(input.dim() == 4, "%s dims", input.dim())
    tokens, heads, size = math.prod(input.shape[:2]), input.shape[2], input.shape[3]
    wanted = (*input.shape[:2], 1, size)
    shared = tuple(r1.shape) == tuple(r2.shape) == wanted
    require_that(shared, "cosines that are not one row a token")
    require_that(size & (size - 1) == 0 and size >= 16, "heads of %s columns", size)
    y, block = torch.empty_like(input), min(HEADS_AT_ONCE, 1 << (heads - 1).bit_length())
    every = (input, r1, r2, y, tokens, heads, size, block, rotary_mode == INTERLEAVE)
    launch(rotary_heads, (tokens,), every, {"num_warps": WARPS})
    return y


KERNELS = {"npu_rotary_mul": rotary_mul_kernel}
