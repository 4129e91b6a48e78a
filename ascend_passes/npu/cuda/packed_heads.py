"""Norm and rotation of the heads of packed rows as one kernel."""

from __future__ import annotations

from torch import Tensor

from ascend_passes.npu.cuda.launch import Launch, require_rows, require_that
from ascend_passes.npu.kernels.packed_heads import packed_heads
from ascend_passes.npu.norm import EPSILON
from ascend_passes.npu.packed_heads import HEAD_SIZES, table_rows, tokens_of

HEADS_AT_ONCE = 8
WARPS = 4
VECTOR_CORES = 40
"""Programs on an NPU, which loop over the rest: two vector cores in each of the 20 AI cores of the
smallest Atlas A2, the 910B4."""


def heads_at_once(query_heads: int, key_heads: int) -> int:
    """The largest power of two, 8 at most, that divides both counts: no program has heads of
    both."""
    both = query_heads | key_heads
    return min(HEADS_AT_ONCE, both & -both)


def programs(tasks: int, device: str) -> int:
    """How many programs share the tasks."""
    return tasks if device in ("cuda", "cpu") else min(tasks, VECTOR_CORES)


def qk_norm_rope_kernel(
    launch: Launch,
    qkv: Tensor,
    query_gain: Tensor,
    key_gain: Tensor,
    cos: Tensor,
    sin: Tensor,
    query_heads: int,
    key_heads: int,
    epsilon: float = EPSILON,
) -> tuple[Tensor, Tensor]:
    """`qk_norm_rope` by this launch.

    Raises:
        Defeated: a call that the kernel does not take.
    """
    require_rows(qkv, query_gain, key_gain, cos, sin)
    size, width = query_gain.shape[-1], qkv.shape[-1]
    require_that(size in HEAD_SIZES, "heads of %s columns", size)
    tokens, rows = tokens_of(qkv), table_rows(cos)
    require_that(cos.shape == sin.shape and tokens % rows == 0, "%s rows of angles", rows)
    query, key = (
        qkv.new_empty((*qkv.shape[:-1], heads, size)) for heads in (query_heads, key_heads)
    )
    block = heads_at_once(query_heads, key_heads)
    tasks = tokens * ((query_heads + key_heads) // block)
    same = (gain.dtype == qkv.dtype for gain in (query_gain, key_gain))
    sizes = (tokens, rows, epsilon, width, query_heads, key_heads, size, block, *same)
    every = (qkv, query_gain, key_gain, cos, sin, query, key, *sizes)
    launch(packed_heads, (programs(tasks, qkv.device.type),), every, {"num_warps": WARPS})
    return query, key


KERNELS = {"qk_norm_rope": qk_norm_rope_kernel}
