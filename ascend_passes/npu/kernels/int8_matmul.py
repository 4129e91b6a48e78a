"""int8 times int8, summed exactly, with all scales in the epilogue.

The weight is read as it lies for `x @ w.t()`: `[N, K]`. Few rows split K over programs, whose sums
a second kernel adds; int32 sums do not depend on their order.
"""

import triton
import triton.language as tl


@triton.jit
def scaled_sums(total, cols, inside, scale, row_factor, bias, SCALES: tl.constexpr,
                WORDS: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr):  # fmt: skip
    """float32 `(total + int32 bias) * scale * row scale + float bias` of int32 sums.

    Args:
        total: [rows, columns].
        cols: of the columns, [1, columns] or its transpose; `inside` says which there are.
        row_factor: of the rows, shaped to broadcast.
        WORDS: whether scales are the 64-bit words of `npu_trans_quant_param`.
        BIAS: 0 for none, 1 for int32, 2 for a float.
    """
    if BIAS == 1:
        total = total + tl.load(bias + cols, mask=inside, other=0)
    at = cols * 0 if SCALES == 1 else cols
    factor = tl.load(scale + at, mask=inside, other=0)
    if WORDS:
        factor = (factor & 0xFFFFE000).to(tl.uint32).to(tl.float32, bitcast=True)
    values = total.to(tl.float32) * factor.to(tl.float32)
    if ROWS:
        values = values * row_factor
    if BIAS == 2:
        values = values + tl.load(bias + cols, mask=inside, other=0).to(tl.float32)
    return values


@triton.jit
def int8_matmul(x, w, scale, row_scales, bias, out, rows, width, depth,
                SCALES: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr,
                BIAS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                GROUP: tl.constexpr, EVEN: tl.constexpr):  # fmt: skip
    """`x[rows, depth] @ w[width, depth].t()` in tiles of `BM` x `BN`.

    Args:
        GROUP: tiles of rows that follow each other, so that they share the weight's tiles in L2.
        EVEN: whether width and depth are whole tiles.
    """
    tiles_m, tiles_n = tl.cdiv(rows, BM), tl.cdiv(width, BN)
    in_group = GROUP * tiles_n
    first = tl.program_id(0) // in_group * GROUP
    size = min(tiles_m - first, GROUP)
    inner = tl.program_id(0) % in_group
    row = (first + inner % size) * BM + tl.arange(0, BM)
    col = (inner // size) * BN + tl.arange(0, BN)
    here, there = row[:, None] < rows, col[None, :] < width
    # Rows and columns behind the end read others; what they sum is not stored.
    a = x + (row % rows).to(tl.int64)[:, None] * depth
    b = w + (col if EVEN else col % width).to(tl.int64)[None, :] * depth
    term = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.int32)
    for k in range(0, depth, BK):
        if EVEN:
            left = tl.load(a + (k + term)[None, :])
            right = tl.load(b + (k + term)[:, None])
        else:
            left = tl.load(a + (k + term)[None, :], mask=(k + term)[None, :] < depth, other=0)
            right = tl.load(b + (k + term)[:, None], mask=(k + term)[:, None] < depth, other=0)
        total = tl.dot(left, right, total, out_dtype=tl.int32)
    factor = tl.load(row_scales + row, mask=row < rows, other=0.0)[:, None] if ROWS else 1.0
    values = scaled_sums(total, col[None, :], there, scale, factor, bias, SCALES, WORDS, ROWS, BIAS)
    at = out + row.to(tl.int64)[:, None] * width + col[None, :]
    tl.store(at, values.to(out.dtype.element_ty), mask=here & there)


@triton.jit
def int8_matmul_few(x, w, scale, row_scales, bias, out, parts, rows, width, depth,
                    SCALES: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr,
                    BIAS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                    SPLIT: tl.constexpr, EVEN: tl.constexpr, TURNED: tl.constexpr):  # fmt: skip
    """The same for few rows, whose time is that of reading the weight once.

    Args:
        parts: int32 `[SPLIT, rows, width]` that `int8_matmul_sum` adds; not used where SPLIT is 1.
        TURNED: whether the weight's rows are the rows of the product, which suits matrix units
            that want many.
    """
    col = tl.program_id(0) * BN + tl.arange(0, BN)
    row = tl.program_id(2) * BM + tl.arange(0, BM)
    a = x + (row % rows).to(tl.int64) * depth
    b = w + (col if EVEN else col % width).to(tl.int64) * depth
    term = tl.arange(0, BK)
    total = tl.zeros((BN, BM) if TURNED else (BM, BN), dtype=tl.int32)
    for k in range(tl.program_id(1) * BK, depth, BK * SPLIT):
        at = k + term
        if TURNED:
            left, right = b[:, None] + at[None, :], a[None, :] + at[:, None]
        else:
            left, right = a[:, None] + at[None, :], b[None, :] + at[:, None]
        if EVEN:
            first, second = tl.load(left), tl.load(right)
        else:
            first = tl.load(left, mask=at[None, :] < depth, other=0)
            second = tl.load(right, mask=at[:, None] < depth, other=0)
        total = tl.dot(first, second, total, out_dtype=tl.int32)
    if TURNED:
        rows_of, cols_of = row[None, :], col[:, None]
    else:
        rows_of, cols_of = row[:, None], col[None, :]
    here, there = rows_of < rows, cols_of < width
    to = rows_of.to(tl.int64) * width + cols_of
    if SPLIT > 1:
        slab = tl.program_id(1).to(tl.int64) * rows * width
        tl.store(parts + slab + to, total, mask=here & there)
    else:
        factor = tl.load(row_scales + rows_of, mask=here, other=0.0) if ROWS else 1.0
        values = scaled_sums(total, cols_of, there, scale, factor, bias, SCALES, WORDS, ROWS, BIAS)
        tl.store(out + to, values.to(out.dtype.element_ty), mask=here & there)


@triton.jit
def int8_matmul_sum(parts, scale, row_scales, bias, out, rows, width, SCALES: tl.constexpr,
                    WORDS: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr,
                    SPLIT: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The epilogue of a product whose K was split."""
    row = tl.program_id(0)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = col < width
    at = tl.cast(row, tl.int64) * width + col
    total = tl.zeros((BLOCK,), dtype=tl.int32)
    for part in tl.static_range(SPLIT):
        slab = tl.cast(part, tl.int64) * rows * width
        total += tl.load(parts + slab + at, mask=inside, other=0)
    factor = tl.load(row_scales + row) if ROWS else 1.0
    values = scaled_sums(total, col, inside, scale, factor, bias, SCALES, WORDS, ROWS, BIAS)
    tl.store(out + at, values.to(out.dtype.element_ty), mask=inside)
