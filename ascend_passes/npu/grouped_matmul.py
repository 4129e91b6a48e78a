"""Several products in one operator: rows in groups, each group times a weight of its own, as
experts have them, or factors that lie apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.grouped_matmul_limits import (
    APART,
    ENDS,
    ONE_RESULT,
    OVER_ROWS,
    RESULT_EACH,
    grouped_matmul_limits,
)
from ascend_passes.npu.matmul import integer_matmul, quant_matmul
from ascend_passes.npu.operator import Operator, dtype_of, empty

CUDA_ALIGNMENT = 8
"""Elements of bfloat16 in 16 bytes; rows of torch's grouped product are a multiple of them."""


def grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
    bias: list[Tensor] | None = None,
    scale: list[Tensor] | None = None,
    per_token_scale: list[Tensor] | None = None,
    group_list: Tensor | None = None,
    split_item: int = 0,
    group_type: int | None = None,
    group_list_type: int = ENDS,
    act_type: int = 0,
    output_dtype: int | None = None,
    **others: Any,
) -> list[Tensor]:
    """The rows of each group times a weight of its own: [M, K] and [E, K, N] give one [M, N]. Where
    nothing is grouped, each x times its weight: [..., K] and [K, N] give [..., N].

    Floating factors are summed in float32 and rounded once. int8 ones are summed exactly, times
    scale [E, N] and per_token_scale [M] in float32, and rounded once to the dtype of output_dtype;
    in lists they have an int32 bias [N] each, or none, and a scale [N] each, and none of a row.
    Rows behind the last group, which no legal call has, are zero.

    Raises:
        NotImplementedError: groups of several tensors, a bias of groups or of floats, an
            activation, or int8 without the scales.
    """
    if group_type == APART:
        absent = (per_token_scale, group_list, *others.values())
        if split_item != RESULT_EACH or act_type or any_given(absent):
            raise NotImplementedError(
                "npu_grouped_matmul: only plain products apart have a reference"
            )
        return products_apart(x, weight, bias, scale, output_dtype)
    plain = group_type == OVER_ROWS and split_item in ONE_RESULT and not act_type
    if (
        not plain
        or len(x) != 1
        or len(weight) != 1
        or group_list is None
        or any_given((bias, *others.values()))
    ):
        raise NotImplementedError("npu_grouped_matmul: only plain groups of rows have a reference")
    ends = group_list if group_list_type == ENDS else group_list.cumsum(0)
    if scale is not None and per_token_scale is not None and output_dtype is not None:
        totals = scaled_by_group(x[0], weight[0], scale[0], ends) * per_token_scale[0].unsqueeze(-1)
        return [totals.to(dtype_of(output_dtype, x[0].dtype))]
    if any_given((scale, per_token_scale, output_dtype)):
        raise NotImplementedError("npu_grouped_matmul: only int8 with both scales has a reference")
    product = product_of_torch if fits_product_of_torch(x[0], weight[0]) else product_by_group
    return [product(x[0], weight[0], ends)]


def products_apart(
    x: list[Tensor],
    weight: list[Tensor],
    bias: list[Tensor] | None,
    scale: list[Tensor] | None,
    code: int | None,
) -> list[Tensor]:
    """Each x times its weight, as a product of its own is; errors as in `grouped_matmul`."""
    integers = all(one.dtype == torch.int8 for one in x)
    if integers != (scale is not None) or (not integers and any_given((bias, code))):
        raise NotImplementedError(
            "npu_grouped_matmul: int8 products apart need scales, and others take nothing of theirs"
        )
    if scale is None:
        return [one @ own for one, own in zip(x, weight, strict=True)]
    biases = [None] * len(x) if bias is None else bias
    products = zip(x, weight, scale, biases, strict=True)
    return [quant_matmul(*one, bias=own, output_dtype=code) for *one, own in products]


def any_given(others: Iterable[Any]) -> bool:
    """Whether any of the arguments has a value."""
    return any(one is not None for one in others)


def product_by_group(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """A product for each group that has rows. Where the groups end is read on the host."""
    result, start = x.new_zeros(x.shape[0], weight.shape[-1]), 0
    for expert, end in enumerate(ends.tolist()):
        if start < end:
            result[start:end] = x[start:end] @ weight[expert]
        start = end
    return result


def scaled_by_group(x: Tensor, weight: Tensor, scale: Tensor, ends: Tensor) -> Tensor:
    """int8 products in float32, times the scales of their group's columns."""
    size = (x.shape[0], weight.shape[-1])
    result, start = torch.zeros(size, device=x.device).float(), 0
    for expert, end in enumerate(ends.tolist()):
        if start < end:
            total = integer_matmul(x[start:end], weight[expert])
            result[start:end] = total.float() * scale[expert].float()
        start = end
    return result


def fits_product_of_torch(x: Tensor, weight: Tensor) -> bool:
    """Whether torch has one kernel for the product, which reads the groups on the device and can
    be captured: CUDA, bfloat16, rows of whole 16 bytes, one dim of each factor contiguous."""
    if x.device.type != "cuda" or x.dtype != torch.bfloat16 or not x.numel():
        return False
    dense = x.is_contiguous() and (weight.is_contiguous() or weight.mT.is_contiguous())
    aligned = all(size % CUDA_ALIGNMENT == 0 for size in weight.shape[1:])
    return dense and aligned and torch.cuda.get_device_capability(x.device) >= (8, 0)


def product_of_torch(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """torch's own kernel, which sums in float32 as well."""
    return torch._grouped_mm(x, weight, offs=ends.to(torch.int32))


def fake_grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
    group_type: int | None = None,
    output_dtype: int | None = None,
    **_: Any,
) -> list[Tensor]:
    """One result with the rows of x and the columns of weight; one for each weight of several."""
    if group_type == APART:
        pairs = zip(x, weight, strict=True)
        return [
            empty(one, (*one.shape[:-1], own.shape[-1]), dtype_of(output_dtype, one.dtype))
            for one, own in pairs
        ]
    size = (x[0].shape[0], weight[0].shape[-1])
    return [empty(x[0], size, dtype_of(output_dtype, x[0].dtype))]


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_grouped_matmul",
        "npu_grouped_matmul(Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None,"
        " Tensor[]? scale=None, Tensor[]? offset=None, Tensor[]? antiquant_scale=None,"
        " Tensor[]? antiquant_offset=None, Tensor[]? per_token_scale=None,"
        " Tensor? group_list=None, Tensor[]? activation_input=None,"
        " Tensor[]? activation_quant_scale=None, Tensor[]? activation_quant_offset=None,"
        " int? split_item=0, int? group_type=None, int? group_list_type=0, int? act_type=0,"
        " int[]? tuning_config=None, int? output_dtype=None, int? x_dtype=None,"
        " int? weight_dtype=None, int? scale_dtype=None, int? per_token_scale_dtype=None)"
        " -> Tensor[]",
        fake_grouped_matmul,
        grouped_matmul,
        grouped_matmul_limits,
        "torch_npu.npu_grouped_matmul; aclnnGroupedMatmulV4",
        multiplies=True,
        traceable=False,
        accuracy="half a unit of the result's dtype, and what float32 loses over a sum of K"
        " products, K * 2^-24 of their magnitudes; of int8 factors, whose sum is exact, 3 * 2^-24",
        converter="GroupedMatmul",
    ),
)
