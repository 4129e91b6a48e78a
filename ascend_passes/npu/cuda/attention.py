"""Attention of a decode step: into how many parts the length is split, and the launches."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ascend_passes.npu.attention import HEAD_SIZES, MOST_ROWS, scale_of
from ascend_passes.npu.cuda.launch import Launch, or_self, require_that
from ascend_passes.npu.kernels.attention import attention_join, attention_parts
from ascend_passes.npu.operator import HALVES

FEWEST_ROWS = 16
"""Rows of the smallest product of the matrix unit."""
MOST_PARTS = 64
WAVES = 2
"""Programs for each processor of the GPU, as long as the length can be split."""
NO_MASK, ADDED, COUNTED = 0, 1, 2


@dataclass(frozen=True)
class Split:
    """One way to work on a length."""

    keys: int
    """Keys of a block."""
    parts: int
    """Programs that share a length, a power of two; their results are joined by another kernel."""
    warps: int = 4
    stages: int = 3


def power_of_two(number: int) -> int:
    """The smallest power of two that is no smaller."""
    return 1 << (number - 1).bit_length()


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; a few where an interpreter runs the kernels."""
    if device.type != "cuda":
        return 8
    return torch.cuda.get_device_properties(device).multi_processor_count


def split_for(heads: int, length: int, size: int, processors: int) -> Split:
    """How to share the length of each of so many key heads.

    Nothing is tried out while a model runs: a first call may be captured.
    """
    # 256 columns of 64 keys, in three stages, take more than the 227 KiB that a program may share.
    keys = {64: 128, 128: 64}.get(size, 32)
    wanted = min(WAVES * processors // heads, -(-length // keys), MOST_PARTS)
    return Split(keys, power_of_two(max(1, wanted)))


def require_attention(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> None:
    """Leave the call to the reference unless the kernel takes it.

    Raises:
        Defeated: it does not.
    """
    require_that(query.dtype in HALVES, "an input of %s", query.dtype)
    require_that(key.dtype == value.dtype == query.dtype, "inputs of several dtypes")
    require_that(query.shape[3] in HEAD_SIZES, "heads of %s columns", query.shape[3])
    require_that(query.shape[2] <= MOST_ROWS, "%s rows of a key head", query.shape[2])
    require_that(key.shape == value.shape, "%s values", value.shape[2])
    dense = all(t.stride(3) == 1 for t in (query, key, value))
    require_that(dense, "columns that do not lie side by side")
    require_that(query.numel() > 0 and key.numel() > 0, "a tensor without elements")
    require_that(lengths is None or lengths.is_contiguous(), "lengths with strides")


def mask_kind(mask: Tensor | None) -> int:
    """What the kernel does with a mask."""
    if mask is None:
        return NO_MASK
    return COUNTED if mask.dtype == torch.bool else ADDED


def attended(
    launch: Launch,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    scale: float | None = None,
    split: Split | None = None,
) -> Tensor:
    """`decode_attention` by this launch; errors as in `require_attention`."""
    require_attention(query, key, value, lengths)
    batch, heads, rows, size = query.shape
    length, every = key.shape[2], batch * heads
    how = split or split_for(every, length, size, processors(query.device))
    spread = None if mask is None else mask.expand(batch, heads, rows, length)
    out = query.new_empty(query.shape)
    parts, peaks, weights = joined_later(out, every, how.parts)
    launch(
        attention_parts,
        (every, how.parts),
        (
            *(query, key, value, or_self(mask, query), or_self(lengths, query)),
            *(out, parts, peaks, weights, length, scale_of(query, scale)),
            *(number for t in (query, key, value) for number in t.stride()[:3]),
            *((0, 0, 0, 0) if spread is None else spread.stride()),
            *(heads, rows, size, mask_kind(mask), lengths is not None),
            *(max(FEWEST_ROWS, power_of_two(rows)), how.keys, how.parts),
        ),
        {"num_warps": how.warps, "num_stages": how.stages},
    )
    if how.parts > 1:
        joining = (parts, peaks, weights, out, rows, size, how.parts)
        launch(attention_join, (every * rows,), joining, {"num_warps": 4})
    return out


def joined_later(out: Tensor, heads: int, parts: int) -> tuple[Tensor, Tensor, Tensor]:
    """float32 for the parts, and for the largest score and the sum of weights of each; the result
    itself where there is one part, which nobody joins."""
    if parts == 1:
        return out, out, out
    rows, size = out.shape[2:]
    whole = out.new_empty((heads, parts, rows, size), dtype=torch.float32)
    peaks, weights = (out.new_empty((heads, parts, rows), dtype=torch.float32) for _ in range(2))
    return whole, peaks, weights


KERNELS = {"decode_attention": attended}
