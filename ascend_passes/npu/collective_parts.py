"""What the references of the matmuls with a collective are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ascend_passes.npu.matmul import integer_matmul
from ascend_passes.npu.operator import dtype_of
from ascend_passes.npu.quantize import scale_of_words


def reduced(values: Tensor, operation: str, group: str) -> Tensor:
    """`values` reduced over the group, on every rank."""
    functional = torch.ops._c10d_functional
    result: Tensor = functional.wait_tensor(
        functional.all_reduce(values.contiguous(), operation, group)
    )
    return result


def scattered(values: Tensor, operation: str, world_size: int, group: str) -> Tensor:
    """This rank's rows of `values` reduced over the group."""
    functional = torch.ops._c10d_functional
    part = functional.reduce_scatter_tensor(values.contiguous(), operation, world_size, group)
    result: Tensor = functional.wait_tensor(part)
    return result


def gathered(rows: Tensor, world_size: int, group: str) -> Tensor:
    """The rows of all ranks, in rank order."""
    functional = torch.ops._c10d_functional
    whole = functional.all_gather_into_tensor(rows.contiguous(), world_size, group)
    result: Tensor = functional.wait_tensor(whole)
    return result


def scale_values(scale: Tensor) -> Tensor:
    """float32 of a scale, which may come as words of `npu_trans_quant_param`."""
    return scale_of_words(scale) if scale.dtype == torch.int64 else scale.float()


def product(
    left: Tensor,
    right: Tensor,
    x1_scale: Tensor | None,
    x2_scale: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """`left @ right`, scaled where int8, plus bias, in `dtype`."""
    if left.dtype != torch.int8:
        values = (
            (left @ right).float() if bias is None else left.float() @ right.float() + bias.float()
        )
        return values.to(dtype)
    total = integer_matmul(left, right)
    if bias is not None and bias.dtype == torch.int32:
        total, bias = total + bias, None
    values = total.float()
    if x2_scale is not None:
        values = values * scale_values(x2_scale)
    if x1_scale is not None:
        values = values * x1_scale.float().reshape(-1, 1)
    return (values if bias is None else values + bias.float()).to(dtype)


def base_dtype(
    input: Tensor, x2_scale: Tensor | None, output_dtype: torch.dtype | None
) -> torch.dtype:
    """Result dtype of the `_base` operators: the input's, unless a scale dequantizes."""
    if x2_scale is None:
        return input.dtype
    return torch.float16 if x2_scale.dtype == torch.int64 else output_dtype or torch.bfloat16


def all_reduce_dtype(x1: Tensor, dequant_scale: Tensor | None, y_dtype: int | None) -> torch.dtype:
    """Result dtype of `npu_mm_all_reduce_base`."""
    if dequant_scale is None:
        return x1.dtype
    default = torch.bfloat16 if dequant_scale.dtype == torch.bfloat16 else torch.float16
    return dtype_of(y_dtype, default)
