"""Per-token quantize as one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ascend_passes.npu.cuda.launch import (
    Launch,
    block_of,
    or_self,
    require_rows,
    require_that,
    rows_of,
    warps_of,
)
from ascend_passes.npu.kernels.quantize_rows import quantize_rows


def dynamic_quant_kernel(
    launch: Launch,
    input: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    group_index: Tensor | None = None,
    dst_type: int | None = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`npu_dynamic_quant` per token by this launch."""
    require_that(quant_mode == "pertoken" and not dst_type_max, "the mode %s", quant_mode)
    require_that(group_index is None, "groups of experts")
    require_rows(input, smooth_scales)
    width, rows = input.shape[-1], rows_of(input)
    block = block_of(width)
    y = torch.empty_like(input, dtype=torch.int8)
    scale = input.new_empty(input.shape[:-1], dtype=torch.float32)
    every = (input, or_self(smooth_scales, input), y, scale, rows, width, block)
    flags = (smooth_scales is not None,)
    launch(quantize_rows, (rows,), (*every, *flags), {"num_warps": warps_of(block)})
    return y, scale


KERNELS = {"npu_dynamic_quant": dynamic_quant_kernel}
