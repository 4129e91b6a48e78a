"""The roundings that several operators share."""

from __future__ import annotations

import torch
from torch import Tensor

INT8_MAX = 127
UNDEFINED = -128
"""What references put where the documentation leaves a result undefined: a reader shows."""


def to_integer(values: Tensor, dtype: torch.dtype = torch.int8) -> Tensor:
    """Contiguous: float32 rounded half to even and clamped to an integer dtype; NaN becomes 0."""
    bounds = torch.iinfo(dtype)
    if dtype == torch.int32:
        values = values.double()  # float32 cannot hold the largest int32
    rounded = torch.nan_to_num(values.round().clamp(bounds.min, bounds.max), nan=0.0)
    return rounded.to(dtype, memory_format=torch.contiguous_format)


def scaled(values: Tensor, scale: Tensor, zero_point: Tensor | None, divide: bool) -> Tensor:
    """float32 `values / scale + zero_point`, or `values * scale + zero_point`."""
    factor = scale.float()
    result = values / factor if divide else values * factor
    return result if zero_point is None else result + zero_point.float()


def dynamic_int8(values: Tensor, dims: tuple[int, ...] = (-1,)) -> tuple[Tensor, Tensor]:
    """Symmetric int8 of float32 values, and the float32 scale `max|values| / 127` over `dims`.

    Values that are all zero have scale 0 and become 0.
    """
    if any(values.shape[dim] == 0 for dim in dims):
        largest = values.sum(dims, keepdim=True)  # amax refuses an empty dimension
    else:
        largest = values.abs().amax(dims, keepdim=True)
    scale = largest / INT8_MAX
    quantized = to_integer(values / torch.where(scale == 0, 1.0, scale))
    return quantized, scale.contiguous()
