"""Attention of a few query rows over the keys and values that they share, split over the length.

Query heads that share a key head are its rows here, so that keys and values are read once. The
softmax is float32's; its weights are rounded to the values' dtype in front of their product. For
CUDA alone: CANN has `npu_fused_infer_attention_score`.
"""

import triton
import triton.language as tl


@triton.jit
def attention_parts(query, key, value, mask, lengths, out, parts, peaks, weights, length, scale,
                    query_batch, query_head, query_row, key_batch, key_head, key_row,
                    value_batch, value_head, value_row,
                    mask_batch, mask_head, mask_row, mask_column,
                    HEADS: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr,
                    MASK: tl.constexpr, LENGTHS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                    SPLIT: tl.constexpr):  # fmt: skip
    """One of `SPLIT` parts of the length of one key head, `[ROWS, SIZE]`.

    Args:
        lengths: int32 `[batch]`, how many keys count, with `LENGTHS`.
        parts: float32 `[batch * HEADS, SPLIT, ROWS, SIZE]` that `attention_join` adds, with the
            largest score and the sum of weights of each row; not used where SPLIT is 1.
        length: keys that there are; strides are in elements.
        MASK: 0 for none, 1 for what is added to the scores, 2 for what says which of them count.
    """
    scale = tl.cast(scale, tl.float32)  # Inductor's launches hand on a Python float as float64
    batch = tl.cast(tl.program_id(0) // HEADS, tl.int64)
    head = tl.program_id(0) % HEADS
    row, column = tl.arange(0, BM), tl.arange(0, SIZE)
    here = row < ROWS
    at = query + batch * query_batch + head * query_head
    at += row[:, None] * query_row + column[None, :]
    rows = tl.load(at, mask=here[:, None], other=0.0)
    keys = key + batch * key_batch + head * key_head + column[None, :]
    values = value + batch * value_batch + head * value_head + column[None, :]
    bias = mask + batch * mask_batch + head * mask_head + row[:, None] * mask_row
    # Parts are of the whole length, so that they do not depend on what counts.
    share = tl.cdiv(tl.cdiv(length, BN), SPLIT) * BN
    start = tl.program_id(1) * share
    stop = min(start + share, tl.load(lengths + batch) if LENGTHS else length)
    peak = tl.full((BM,), float("-inf"), tl.float32)
    weight = tl.zeros((BM,), tl.float32)
    total = tl.zeros((BM, SIZE), tl.float32)
    for first in range(start, stop, BN):
        term = first + tl.arange(0, BN)
        there = term < stop
        far = term.to(tl.int64)[:, None]
        left = tl.load(keys + far * key_row, mask=there[:, None], other=0.0)
        scores = tl.dot(rows, tl.trans(left)) * scale
        if MASK > 0:
            seen = tl.load(bias + term[None, :] * mask_column, mask=here[:, None] & there[None, :],
                           other=0)  # fmt: skip
            if MASK == 1:
                scores = scores + seen.to(tl.float32)
            else:
                scores = tl.where(seen != 0, scores, float("-inf"))
        scores = tl.where(there[None, :], scores, float("-inf"))
        largest = tl.maximum(peak, tl.max(scores, 1))
        known = tl.where(largest == float("-inf"), 0.0, largest)  # nothing counts so far
        grown = tl.exp(scores - known[:, None])
        shrunk = tl.exp(peak - known)
        weight = weight * shrunk + tl.sum(grown, 1)
        right = tl.load(values + far * value_row, mask=there[:, None], other=0.0)
        total = tl.dot(grown.to(right.dtype), right, total * shrunk[:, None])
        peak = largest
    if SPLIT == 1:
        result = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
        to = (tl.cast(tl.program_id(0), tl.int64) * ROWS + row)[:, None] * SIZE + column[None, :]
        tl.store(out + to, result.to(out.dtype.element_ty), mask=here[:, None])
    else:
        to = (tl.cast(tl.program_id(0), tl.int64) * SPLIT + tl.program_id(1)) * ROWS + row
        tl.store(parts + to[:, None] * SIZE + column[None, :], total, mask=here[:, None])
        tl.store(peaks + to, peak, mask=here)
        tl.store(weights + to, weight, mask=here)


@triton.jit
def attention_join(parts, peaks, weights, out, ROWS: tl.constexpr, SIZE: tl.constexpr,
                   SPLIT: tl.constexpr):  # fmt: skip
    """One row of the result, out of its parts."""
    whole = tl.cast(tl.program_id(0), tl.int64)
    part, column = tl.arange(0, SPLIT), tl.arange(0, SIZE)
    at = (whole // ROWS * SPLIT + part) * ROWS + whole % ROWS
    peak = tl.load(peaks + at)
    largest = tl.max(peak, 0)
    factor = tl.exp(peak - tl.where(largest == float("-inf"), 0.0, largest))
    weight = tl.sum(tl.load(weights + at) * factor, 0)
    total = tl.sum(tl.load(parts + at[:, None] * SIZE + column[None, :]) * factor[:, None], 0)
    result = total / tl.where(weight == 0.0, 1.0, weight)
    tl.store(out + whole * SIZE + column, result.to(out.dtype.element_ty))
