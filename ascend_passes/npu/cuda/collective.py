"""Int8 matmuls with a collective: the product is our kernel's, the collective NCCL's.

Their references spell the product out, which leaves it to cuBLAS and its scales to another kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu import collective_parts as parts
from ascend_passes.npu.cuda.launch import Launch, require_that
from ascend_passes.npu.operator import empty


def kernel_product(
    left: Tensor,
    right: Tensor,
    row_scale: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    dtype_code: int | None,
) -> Tensor:
    """The scaled product of int8 rows, as `npu_quant_matmul` gives it.

    Raises:
        Defeated: the factors are not int8 with a scale, and a dtype to scale to.
    """
    require_that(left.dtype == right.dtype == torch.int8, "factors that are not int8")
    require_that(scale is not None and dtype_code is not None, "a product without a scale")
    found: Tensor = torch.ops.npu.npu_quant_matmul(
        left, right, scale, pertoken_scale=row_scale, bias=bias, output_dtype=dtype_code
    )
    return found


def matmul_kernel_scattered(
    _launch: Launch,
    input: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    reduce_op: str = "sum",
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    y_dtype: int | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """`npu_quant_mm_reduce_scatter`."""
    partial = kernel_product(input, x2, x1_scale, x2_scale, bias, y_dtype)
    return parts.scattered(partial, reduce_op, world_size, hcom), empty(input, [0], torch.float32)


def gathered_matmul_kernel(
    _launch: Launch,
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
    """`npu_all_gather_quant_mm`."""
    require_that(gather_index == 0, "a gather of the weight")
    rows = parts.gathered(input, world_size, hcom)
    if x1_scale is not None:
        x1_scale = parts.gathered(x1_scale.reshape(-1), world_size, hcom)
    out = kernel_product(rows, x2, x1_scale, x2_scale, bias, y_dtype)
    return out, rows if gather_output else empty(input, [0]), empty(input, [0], torch.float32)


KERNELS = {
    "npu_quant_mm_reduce_scatter": matmul_kernel_scattered,
    "npu_all_gather_quant_mm": gathered_matmul_kernel,
}
"""Both are calls of other operators, and launch nothing themselves."""
