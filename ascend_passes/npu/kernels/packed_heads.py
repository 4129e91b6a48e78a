"""RMSNorm of query and key heads and their rotation in one reading of packed rows."""

import triton
import triton.language as tl

from ascend_passes.npu.kernels.arithmetic import quotient
from ascend_passes.npu.kernels.rotary_heads import angle_pair


@triton.jit
def turned_heads(x, gain, cos, sin, y, epsilon, SIZE: tl.constexpr, BLOCK: tl.constexpr,
                 SAME: tl.constexpr):  # fmt: skip
    """`BLOCK` heads that lie one after the other, with the cosines and sines of one token.

    With `SAME` the gain has the dtype of x, and the normalized head is rounded before the product.
    """
    pair = tl.arange(0, SIZE // 2)
    at = tl.arange(0, BLOCK)[:, None] * SIZE + pair[None, :]
    low = tl.load(x + at).to(tl.float32)
    high = tl.load(x + at + SIZE // 2).to(tl.float32)
    squares = tl.sum(low * low + high * high, 1)
    root = quotient(1.0, tl.sqrt(squares / SIZE + epsilon))[:, None]
    gain_low, gain_high = angle_pair(gain, pair, SIZE // 2)
    cos_low, cos_high = angle_pair(cos, pair, SIZE // 2)
    sin_low, sin_high = angle_pair(sin, pair, SIZE // 2)
    low, high = low * root, high * root
    if SAME:
        low = low.to(x.dtype.element_ty).to(tl.float32)
        high = high.to(x.dtype.element_ty).to(tl.float32)
    low = (low * gain_low[None, :]).to(x.dtype.element_ty).to(tl.float32)
    high = (high * gain_high[None, :]).to(x.dtype.element_ty).to(tl.float32)
    below = low * cos_low[None, :] - high * sin_low[None, :]
    above = high * cos_high[None, :] + low * sin_high[None, :]
    tl.store(y + at, below.to(y.dtype.element_ty))
    tl.store(y + at + SIZE // 2, above.to(y.dtype.element_ty))


@triton.jit
def packed_heads(qkv, query_gain, key_gain, cos, sin, query, key, tokens, table_rows, epsilon,
                 WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
                 SIZE: tl.constexpr, BLOCK: tl.constexpr, SAME_QUERY: tl.constexpr,
                 SAME_KEY: tl.constexpr):  # fmt: skip
    """Heads of `[tokens, WIDTH]`: `QUERIES` of them, then `KEYS`, of `SIZE` columns each.

    Token t has row `t % table_rows` of the cosines and sines, `[table_rows, SIZE]`. A program takes
    `BLOCK` heads of a token at a time, which divides both counts.
    """
    blocks: tl.constexpr = (QUERIES + KEYS) // BLOCK
    epsilon = tl.cast(epsilon, tl.float32)  # Inductor's launches hand on a Python float as float64
    for task in range(tl.program_id(0), tokens * blocks, tl.num_programs(0)):
        token = tl.cast(task // blocks, tl.int64)
        head = task % blocks * BLOCK
        x = qkv + token * WIDTH + head * SIZE
        angles = token % table_rows * SIZE
        if head < QUERIES:
            to = query + (token * QUERIES + head) * SIZE
            turned_heads(x, query_gain, cos + angles, sin + angles, to, epsilon, SIZE, BLOCK,
                         SAME_QUERY)  # fmt: skip
        else:
            to = key + (token * KEYS + head - QUERIES) * SIZE
            turned_heads(x, key_gain, cos + angles, sin + angles, to, epsilon, SIZE, BLOCK,
                         SAME_KEY)  # fmt: skip
