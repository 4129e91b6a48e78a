"""The int8 matmul: which tile a call takes, and its launch."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ascend_passes.ir.trace_triton import InTiles
from ascend_passes.npu.cuda.launch import (
    Launch,
    is_aligned,
    launch_now,
    or_self,
    require_that,
)
from ascend_passes.npu.cuda.tiles import Tile, tile_for
from ascend_passes.npu.kernels.int8_matmul import int8_matmul, int8_matmul_few, int8_matmul_sum
from ascend_passes.npu.kernels.int8_matmul_tma import int8_matmul_tma
from ascend_passes.npu.operator import dtype_of

HALF_PRECISIONS = (torch.float16, torch.bfloat16)
SCALE_DTYPES = (torch.float32, torch.bfloat16, torch.int64)
NO_BIAS, INTEGER_BIAS, FLOAT_BIAS = 0, 1, 2
SUM_COLUMNS = 1024
"""Columns of a program that adds the parts of a split product."""


@dataclass(frozen=True)
class ProductCall:
    """A product that the kernels take."""

    rows: Tensor
    """int8 `[rows, depth]`."""
    weight: Tensor
    """int8 `[width, depth]`."""
    scale: Tensor
    row_scales: Tensor | None
    bias: Tensor | None
    out: Tensor


def checked_call(
    x1: Tensor,
    x2: Tensor,
    scale: Tensor,
    *,
    offset: Tensor | None = None,
    pertoken_scale: Tensor | None = None,
    bias: Tensor | None = None,
    output_dtype: int | None = None,
    x1_dtype: int | None = None,
    x2_dtype: int | None = None,
    pertoken_scale_dtype: int | None = None,
    scale_dtype: int | None = None,
    group_sizes: list[int] | None = None,
    y_scale: Tensor | None = None,
) -> ProductCall:
    """A call of `npu_quant_matmul` whose weight lies as `[N, K]`, to a half precision.

    Raises:
        Defeated: it is another.
    """
    dtype = dtype_of(output_dtype, torch.int8)
    require_that(dtype in HALF_PRECISIONS and offset is None, "a result of %s", dtype)
    require_that(not group_sizes and y_scale is None, "groups of scales")
    require_that(x1.dtype == x2.dtype == torch.int8, "factors that are not int8")
    require_that(x2.dim() == 2 and x2.stride(0) == 1, "a weight that does not lie as [N, K]")
    depth, width = x2.shape
    require_that(x2.stride(1) == depth, "a weight whose rows are apart")
    require_that(x1.numel() > 0 and width > 0, "a factor without elements")
    require_that(scale.dtype in SCALE_DTYPES and scale.is_contiguous(), "scales of %s", scale.dtype)
    require_that(scale.numel() in (1, width), "scales of another size")
    require_that(bias is None or tuple(bias.shape) == (width,), "a bias of each batch")
    rows = x1.reshape(-1, depth).contiguous()
    if pertoken_scale is not None:
        require_that(pertoken_scale.numel() == rows.shape[0], "row scales of each batch")
        pertoken_scale = pertoken_scale.contiguous()
    out = x1.new_empty((*x1.shape[:-1], width), dtype=dtype)
    return ProductCall(rows, x2.t(), scale, pertoken_scale, bias, out)


def quant_matmul_kernel(launch: Launch, *arguments: Any, **keywords: Any) -> Tensor:
    """`npu_quant_matmul` by this launch; errors as in `checked_call`."""
    call = checked_call(*arguments, **keywords)
    launch_product(call, tile_for(call.rows.shape[0], *call.weight.shape), launch)
    return call.out


def can_copy_tiles(rows: Tensor, weight: Tensor) -> bool:
    """Whether the GPU copies whole tiles of these: Hopper or later, rows of 16-byte multiples."""
    aligned = is_aligned(rows) and is_aligned(weight)
    return rows.is_cuda and aligned and rows.shape[1] % 16 == 0 and copies_tiles(rows.device)


@functools.cache
def copies_tiles(device: torch.device) -> bool:
    """Whether a GPU has the copy engine of Hopper."""
    return torch.cuda.get_device_capability(device) >= (9, 0)


def launch_product(call: ProductCall, tile: Tile, launch: Launch = launch_now) -> None:
    """Fill `call.out` with the product in this tile."""
    count, depth = call.rows.shape
    width, scale, bias, out = call.weight.shape[0], call.scale, call.bias, call.out
    kinds = NO_BIAS if bias is None else INTEGER_BIAS if bias.dtype == torch.int32 else FLOAT_BIAS
    pointers = (scale, or_self(call.row_scales, scale), or_self(bias, scale), out)
    flags = (scale.numel(), scale.dtype == torch.int64, call.row_scales is not None, kinds)
    how = {"num_warps": tile.warps, "num_stages": tile.stages}
    across, along = -(-width // tile.columns), -(-count // tile.rows)
    factors, sizes = (call.rows, call.weight), (count, width, depth)
    shape = (tile.rows, tile.columns, tile.depth)
    every: tuple[Any, ...]
    if tile.few:
        even = width % tile.columns == 0 and depth % (tile.depth * tile.split) == 0
        split = tile.split
        parts = out if split == 1 else out.new_empty((split, count, width), dtype=torch.int32)
        last = (*shape, split, even, tile.turned)
        every = (*factors, *pointers, parts, *sizes, *flags, *last)
        launch(int8_matmul_few, (across, split, along), every, how)
        if split > 1:
            adding = (parts, *pointers, count, width, *flags, split, SUM_COLUMNS)
            launch(int8_matmul_sum, (count, -(-width // SUM_COLUMNS)), adding, {"num_warps": 4})
        return
    if tile.tma and can_copy_tiles(*factors):
        blocks = (tile.rows, tile.columns)
        tiled = (InTiles(t, (n, tile.depth)) for t, n in zip(factors, blocks, strict=True))
        every = (*tiled, *pointers, *sizes, *flags, *shape, tile.group)
        launch(int8_matmul_tma, (across * along,), every, how)
        return
    even = width % tile.columns == 0 and depth % tile.depth == 0
    every = (*factors, *pointers, *sizes, *flags, *shape, tile.group, even)
    launch(int8_matmul, (across * along,), every, how)


KERNELS = {"npu_quant_matmul": quant_matmul_kernel}
