"""Rotary embedding of heads: `x * cos + rotated(x) * sin`, float32 inside, rounded once."""

import triton
import triton.language as tl


@triton.jit
def rotary_heads(x, cos, sin, y, tokens, HEADS: tl.constexpr, SIZE: tl.constexpr,
                 BLOCK: tl.constexpr, INTERLEAVED: tl.constexpr):  # fmt: skip
    """The heads of a token with its cosines and sines, `[tokens, HEADS, SIZE]` and
    `[tokens, SIZE]`.

    A program takes `BLOCK` heads at a time. Column i pairs with `i + SIZE / 2`, or with its
    neighbour where `INTERLEAVED`.
    """
    pair = tl.arange(0, SIZE // 2)
    first = 2 * pair if INTERLEAVED else pair
    apart: tl.constexpr = 1 if INTERLEAVED else SIZE // 2
    for token in range(tl.program_id(0), tokens, tl.num_programs(0)):
        angles = tl.cast(token, tl.int64) * SIZE + first
        cos_low, cos_high = angle_pair(cos, angles, apart)
        sin_low, sin_high = angle_pair(sin, angles, apart)
        for start in range(0, HEADS, BLOCK):
            head = start + tl.arange(0, BLOCK)
            at = (tl.cast(token, tl.int64) * HEADS + head)[:, None] * SIZE + first[None, :]
            if HEADS % BLOCK == 0:
                low, high = tl.load(x + at), tl.load(x + at + apart)
            else:
                known = (head < HEADS)[:, None]
                low = tl.load(x + at, mask=known, other=0.0)
                high = tl.load(x + at + apart, mask=known, other=0.0)
            low, high = low.to(tl.float32), high.to(tl.float32)
            below = (low * cos_low[None, :] - high * sin_low[None, :]).to(y.dtype.element_ty)
            above = (high * cos_high[None, :] + low * sin_high[None, :]).to(y.dtype.element_ty)
            if HEADS % BLOCK == 0:
                tl.store(y + at, below)
                tl.store(y + at + apart, above)
            else:
                tl.store(y + at, below, mask=known)
                tl.store(y + at + apart, above, mask=known)


@triton.jit
def angle_pair(table, at, APART: tl.constexpr):
    """float32 of a table at both columns of each pair."""
    return tl.load(table + at).to(tl.float32), tl.load(table + at + APART).to(tl.float32)
