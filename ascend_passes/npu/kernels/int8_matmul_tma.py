"""The int8 matmul for many rows where the GPU copies whole tiles: Hopper and later.

Triton for Ascend has no tensor descriptors, so that this file is for CUDA alone; `int8_matmul`
computes the same, bit for bit.
"""

import triton
import triton.language as tl

from ascend_passes.npu.kernels.int8_matmul import scaled_sums


@triton.jit
def int8_matmul_tma(x, w, scale, row_scales, bias, out, rows, width, depth,
                    SCALES: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr,
                    BIAS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                    GROUP: tl.constexpr):  # fmt: skip
    """`x[rows, depth] @ w[width, depth].t()` in tiles of `BM` x `BN`.

    Args:
        x, w: tensor descriptors with blocks `[BM, BK]` and `[BN, BK]`, zero outside.
    """
    tiles_m, tiles_n = tl.cdiv(rows, BM), tl.cdiv(width, BN)
    in_group = GROUP * tiles_n
    first = tl.program_id(0) // in_group * GROUP
    size = min(tiles_m - first, GROUP)
    inner = tl.program_id(0) % in_group
    top, left = (first + inner % size) * BM, (inner // size) * BN
    total = tl.zeros((BM, BN), dtype=tl.int32)
    for k in range(0, depth, BK):
        total = tl.dot(x.load([top, k]), w.load([left, k]).T, total, out_dtype=tl.int32)
    row, col = top + tl.arange(0, BM), left + tl.arange(0, BN)
    here, there = row[:, None] < rows, col[None, :] < width
    factor = tl.load(row_scales + row, mask=row < rows, other=0.0)[:, None] if ROWS else 1.0
    values = scaled_sums(total, col[None, :], there, scale, factor, bias, SCALES, WORDS, ROWS, BIAS)
    at = out + row.to(tl.int64)[:, None] * width + col[None, :]
    tl.store(at, values.to(out.dtype.element_ty), mask=here & there)
