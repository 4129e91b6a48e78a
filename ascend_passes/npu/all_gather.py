"""References and fakes of matmuls that gather their rows first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu import collective_parts as parts
from ascend_passes.npu.operator import dtype_of, empty


def all_gather_base_mm(
    input: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    gather_index: int = 0,
    gather_output: bool = True,
    comm_turn: int = 0,
    output_dtype: torch.dtype | None = None,
    comm_mode: str | None = None,
) -> tuple[Tensor, Tensor]:
    """(`all_gather(input) @ x2`, the gathered rows or an empty tensor); x1_scale is this rank's."""
    if gather_index != 0:
        raise NotImplementedError("npu_all_gather_base_mm: only the input can be gathered")
    rows = parts.gathered(input, world_size, hcom)
    if x1_scale is not None:
        x1_scale = parts.gathered(x1_scale.reshape(-1), world_size, hcom)
    out = parts.product(
        rows, x2, x1_scale, x2_scale, bias, parts.base_dtype(input, x2_scale, output_dtype)
    )
    return out, rows if gather_output else empty(input, [0])


def fake_all_gather_base_mm(
    input: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    x2_scale: Tensor | None = None,
    gather_output: bool = True,
    output_dtype: torch.dtype | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """([M * world_size, N], [M * world_size, K] or [0])."""
    rows = input.shape[0] * world_size
    out = empty(input, [rows, x2.shape[1]], parts.base_dtype(input, x2_scale, output_dtype))
    return out, empty(input, [rows, input.shape[1]] if gather_output else [0])


def all_gather_quant_mm(
    input: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    gather_index: int = 0,
    gather_output: bool = True,
    y_dtype: int | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """(scaled product of the gathered rows, those rows or an empty tensor, an empty amax)."""
    if gather_index != 0:
        raise NotImplementedError("npu_all_gather_quant_mm: only the input can be gathered")
    rows = parts.gathered(input, world_size, hcom)
    if x1_scale is not None:
        x1_scale = parts.gathered(x1_scale.reshape(-1), world_size, hcom)
    out = parts.product(rows, x2, x1_scale, x2_scale, bias, dtype_of(y_dtype, input.dtype))
    return out, rows if gather_output else empty(input, [0]), empty(input, [0], torch.float32)


def fake_all_gather_quant_mm(
    input: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    gather_output: bool = True,
    y_dtype: int | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """([M * world_size, N], [M * world_size, K] or [0], [0])."""
    rows = input.shape[0] * world_size
    out = empty(input, [rows, x2.shape[1]], dtype_of(y_dtype, input.dtype))
    gathered_rows = empty(input, [rows, input.shape[1]] if gather_output else [0])
    return out, gathered_rows, empty(input, [0], torch.float32)
