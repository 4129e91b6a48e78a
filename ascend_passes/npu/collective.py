"""Matmuls fused with a collective of a tensor-parallel group.

`hcom` names the group: the HCCL communicator's name on an NPU, the torch process group's name
elsewhere. References run the real collective. Partial products are rounded to the result dtype
before they are summed across ranks, as the kernels do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.ir.traits import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, Matmul
from ascend_passes.npu import collective_parts as parts
from ascend_passes.npu.accuracy import ONE_ROUNDING, PARTIALS, ULP, Bound
from ascend_passes.npu.all_gather import (
    all_gather_base_mm,
    all_gather_quant_mm,
    fake_all_gather_base_mm,
    fake_all_gather_quant_mm,
)
from ascend_passes.npu.collective_limits import (
    all_gather_base_mm_limits,
    all_gather_quant_mm_limits,
    mm_all_reduce_base_limits,
    mm_reduce_scatter_base_limits,
    quant_mm_reduce_scatter_limits,
)
from ascend_passes.npu.operator import Operator, dtype_of, empty

FACTORS = Matmul("input", "x2", bias="bias", scale="x2_scale", row_scale="x1_scale")


def mm_all_reduce_base(
    x1: Tensor,
    x2: Tensor,
    hcom: str,
    *,
    reduce_op: str = "sum",
    bias: Tensor | None = None,
    x3: Tensor | None = None,
    dequant_scale: Tensor | None = None,
    pertoken_scale: Tensor | None = None,
    y_dtype: int | None = None,
    **others: Any,
) -> Tensor:
    """`all_reduce(x1 @ x2 + bias) + x3`; the bias counts once per rank."""
    if any(others.get(name) is not None for name in ("antiquant_scale", "comm_quant_scale_1")):
        raise NotImplementedError(
            "npu_mm_all_reduce_base: no reference for quantized weights or transport"
        )
    dtype = parts.all_reduce_dtype(x1, dequant_scale, y_dtype)
    rows = x1.flatten(0, -2)
    partial = parts.product(rows, x2, pertoken_scale, dequant_scale, bias, dtype)
    total = parts.reduced(partial, reduce_op, hcom).reshape(*x1.shape[:-1], x2.shape[-1])
    return total if x3 is None else total + x3


def fake_mm_all_reduce_base(
    x1: Tensor,
    x2: Tensor,
    hcom: str,
    *,
    dequant_scale: Tensor | None = None,
    y_dtype: int | None = None,
    **_: Any,
) -> Tensor:
    """[..., N]."""
    return empty(
        x1, [*x1.shape[:-1], x2.shape[1]], parts.all_reduce_dtype(x1, dequant_scale, y_dtype)
    )


def mm_reduce_scatter_base(
    input: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    reduce_op: str = "sum",
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    comm_turn: int = 0,
    output_dtype: torch.dtype | None = None,
    comm_mode: str | None = None,
) -> Tensor:
    """This rank's rows of the sum over ranks of `input @ x2`."""
    dtype = parts.base_dtype(input, x2_scale, output_dtype)
    return parts.scattered(
        parts.product(input, x2, x1_scale, x2_scale, bias, dtype), reduce_op, world_size, hcom
    )


def fake_mm_reduce_scatter_base(
    input: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    x2_scale: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
    **_: Any,
) -> Tensor:
    """[M // world_size, N]."""
    return empty(
        input,
        [input.shape[0] // world_size, x2.shape[1]],
        parts.base_dtype(input, x2_scale, output_dtype),
    )


def quant_mm_reduce_scatter(
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
    """(this rank's rows of the sum of the scaled product, an empty amax)."""
    dtype = dtype_of(y_dtype, input.dtype)
    partial = parts.product(input, x2, x1_scale, x2_scale, bias, dtype)
    return parts.scattered(partial, reduce_op, world_size, hcom), empty(input, [0], torch.float32)


def fake_quant_mm_reduce_scatter(
    input: Tensor, x2: Tensor, hcom: str, world_size: int, *, y_dtype: int | None = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """([M // world_size, N], [0])."""
    shape = [input.shape[0] // world_size, x2.shape[1]]
    return empty(input, shape, dtype_of(y_dtype, input.dtype)), empty(input, [0], torch.float32)


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_mm_all_reduce_base",
        'npu_mm_all_reduce_base(Tensor x1, Tensor x2, str hcom, *, str reduce_op="sum",'
        " Tensor? bias=None, Tensor? antiquant_scale=None, Tensor? antiquant_offset=None,"
        " Tensor? x3=None, Tensor? dequant_scale=None, Tensor? pertoken_scale=None,"
        " Tensor? comm_quant_scale_1=None, Tensor? comm_quant_scale_2=None,"
        " int antiquant_group_size=0, int comm_turn=0, int[]? group_sizes=None, int? y_dtype=None,"
        " int? x1_dtype=None, int? x2_dtype=None, int? dequant_scale_dtype=None,"
        " int? pertoken_scale_dtype=None, int comm_quant_mode=0, str? comm_mode=None) -> Tensor",
        fake_mm_all_reduce_base,
        mm_all_reduce_base,
        mm_all_reduce_base_limits,
        "torch_npu.npu_mm_all_reduce_base; aclnnMatmulAllReduce, aclnnQuantMatmulAllReduce",
        matmul=Matmul("x1", "x2", bias="bias", scale="dequant_scale", row_scale="pertoken_scale"),
        collective=ALL_REDUCE,
        accuracy=PARTIALS,
        converter="MatmulAllReduce",
    ),
    Operator(
        "npu_mm_reduce_scatter_base",
        "npu_mm_reduce_scatter_base(Tensor input, Tensor x2, str hcom, int world_size, *,"
        ' str reduce_op="sum", Tensor? bias=None, Tensor? x1_scale=None, Tensor? x2_scale=None,'
        " int comm_turn=0, ScalarType? output_dtype=None, str? comm_mode=None) -> Tensor",
        fake_mm_reduce_scatter_base,
        mm_reduce_scatter_base,
        mm_reduce_scatter_base_limits,
        "torch_npu.npu_mm_reduce_scatter_base; aclnnMatmulReduceScatterV2",
        matmul=FACTORS,
        collective=REDUCE_SCATTER,
        accuracy=PARTIALS,
        converter="MatmulReduceScatter",
    ),
    Operator(
        "npu_quant_mm_reduce_scatter",
        "npu_quant_mm_reduce_scatter(Tensor input, Tensor x2, str hcom, int world_size, *,"
        ' str reduce_op="sum", Tensor? bias=None, Tensor? x1_scale=None, Tensor? x2_scale=None,'
        " Tensor? quant_scale=None, int block_size=0, int comm_turn=0, int[]? group_sizes=None,"
        " bool amax_output=False, int? y_dtype=None, int? x1_dtype=None, int? x2_dtype=None,"
        " int? x1_scale_dtype=None, int? x2_scale_dtype=None, str? comm_mode=None)"
        " -> (Tensor, Tensor)",
        fake_quant_mm_reduce_scatter,
        quant_mm_reduce_scatter,
        quant_mm_reduce_scatter_limits,
        "torch_npu.npu_quant_mm_reduce_scatter; aclnnQuantMatmulReduceScatter",
        matmul=FACTORS,
        collective=REDUCE_SCATTER,
        accuracy=PARTIALS,
        converter="MatmulReduceScatterV2",
    ),
    Operator(
        "npu_all_gather_base_mm",
        "npu_all_gather_base_mm(Tensor input, Tensor x2, str hcom, int world_size, *,"
        " Tensor? bias=None, Tensor? x1_scale=None, Tensor? x2_scale=None, int gather_index=0,"
        " bool gather_output=True, int comm_turn=0, ScalarType? output_dtype=None,"
        " str? comm_mode=None) -> (Tensor, Tensor)",
        fake_all_gather_base_mm,
        all_gather_base_mm,
        all_gather_base_mm_limits,
        "torch_npu.npu_all_gather_base_mm; aclnnAllGatherMatmulV2",
        matmul=FACTORS,
        collective=ALL_GATHER,
        accuracy="2^-8 relative, and 2^-16 of the sum of magnitudes",
        converter="AllGatherMatmul",
    ),
    Operator(
        "npu_all_gather_quant_mm",
        "npu_all_gather_quant_mm(Tensor input, Tensor x2, str hcom, int world_size, *,"
        " Tensor? bias=None, Tensor? x1_scale=None, Tensor? x2_scale=None,"
        " Tensor? quant_scale=None, int block_size=0, int gather_index=0, bool gather_output=True,"
        " int comm_turn=0, int[]? group_sizes=None, bool amax_output=False, int? y_dtype=None,"
        " int? x1_dtype=None, int? x2_dtype=None, int? x1_scale_dtype=None,"
        " int? x2_scale_dtype=None, str? comm_mode=None) -> (Tensor, Tensor, Tensor)",
        fake_all_gather_quant_mm,
        all_gather_quant_mm,
        all_gather_quant_mm_limits,
        "torch_npu.npu_all_gather_quant_mm; aclnnAllGatherQuantMatmul",
        matmul=FACTORS,
        collective=ALL_GATHER,
        accuracy=(Bound("y", ULP, {torch.bfloat16: ONE_ROUNDING}),),
        converter="AllGatherMatmulV2",
    ),
)
