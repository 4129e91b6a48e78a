"""The products of experts: rows in groups, each group times a weight of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.matmul import CODE_BFLOAT16, CODE_FLOAT16, integer_matmul
from ascend_passes.npu.operator import (
    A2,
    A3,
    Arguments,
    Conditions,
    Operator,
    dtype_of,
    empty,
    is_soc,
    require,
    require_absent,
    require_dtype,
    require_shape,
)

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
INNER_LIMIT = 65536
"""InnerLimit of the documentation: the last dims of x and of weight, as they lie, are below it."""
MOST_GROUPS = 1024
"""Largest size of group_list beside one weight of three dims."""
ENDS, COUNTS = 0, 1
"""group_list_type: group_list holds where each group ends, or how many rows each has."""
ONE_RESULT = (2, 3)
"""Values of split_item for which all groups are rows of one result."""
OVER_ROWS = 0
"""group_type: the groups are rows of x."""
CUDA_ALIGNMENT = 8
"""Elements of bfloat16 in 16 bytes; rows of torch's grouped product are a multiple of them."""
SCALES = ("scale", "per_token_scale")
"""Of each column of each group, [E, N], and of each row, [M]."""
OTHER_QUANTIZED = (
    *("offset", "antiquant_scale", "antiquant_offset"),
    *("x_dtype", "weight_dtype", "scale_dtype", "per_token_scale_dtype"),
)
SCALE_OF_RESULT = {CODE_BFLOAT16: torch.bfloat16, CODE_FLOAT16: torch.float32}
"""output_dtype of int8 rows with a scale each -> dtype of scale, by the documentation's table."""
RESERVED = ("activation_input", "activation_quant_scale", "activation_quant_offset")
"""Arguments that the documentation allows no value."""


def grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
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
    """The rows of each group times a weight of its own: [M, K] and [E, K, N] give one [M, N].

    Floating factors are summed in float32 and rounded once. int8 ones are summed exactly, times
    scale [E, N] and per_token_scale [M] in float32, and rounded once to the dtype of output_dtype.
    Rows behind the last group, which no legal call has, are zero.

    Raises:
        NotImplementedError: several tensors, a bias, an activation, or int8 without both scales.
    """
    plain = group_type == OVER_ROWS and split_item in ONE_RESULT and not act_type
    if not plain or len(x) != 1 or len(weight) != 1 or group_list is None or any_given(others):
        raise NotImplementedError("npu_grouped_matmul: only plain groups of rows have a reference")
    ends = group_list if group_list_type == ENDS else group_list.cumsum(0)
    if scale is not None and per_token_scale is not None and output_dtype is not None:
        totals = scaled_by_group(x[0], weight[0], scale[0], ends) * per_token_scale[0].unsqueeze(-1)
        return [totals.to(dtype_of(output_dtype, x[0].dtype))]
    if any_given({"scale": scale, "per_token": per_token_scale, "dtype": output_dtype}):
        raise NotImplementedError("npu_grouped_matmul: only int8 with both scales has a reference")
    product = product_of_torch if fits_product_of_torch(x[0], weight[0]) else product_by_group
    return [product(x[0], weight[0], ends)]


def any_given(others: dict[str, Any]) -> bool:
    """Whether any of the arguments has a value."""
    return any(one is not None for one in others.values())


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
    x: list[Tensor], weight: list[Tensor], *, output_dtype: int | None = None, **_: Any
) -> list[Tensor]:
    """One result with the rows of x and the columns of weight."""
    size = (x[0].shape[0], weight[0].shape[-1])
    return [empty(x[0], size, dtype_of(output_dtype, x[0].dtype))]


def grouped_matmul_limits(arguments: Arguments, soc: str) -> Conditions:
    """One x, one weight and one result, grouped over rows: the documentation's case of one tensor
    each, without quantization or with a scale of each row. That the groups are all of x is of the
    content of group_list."""
    yield is_soc(soc, A2, A3), f"the limits on {soc} are not known here"
    for name in ("x", "weight"):
        count = len(arguments[name])
        yield count == 1, f"{name} is {count} tensors but must be one"
    for name in OTHER_QUANTIZED:
        yield require_absent(name, arguments[name], "has no reference here")
    for name in RESERVED:
        yield require_absent(name, arguments[name], "is reserved")
    for name in ("bias", "tuning_config"):
        yield require_absent(name, arguments[name], "has no reference here")
    yield not arguments["act_type"], "act_type is given but only a per-token quantized x takes it"
    yield arguments["split_item"] in ONE_RESULT, "split_item is not 2 or 3, one result"
    yield arguments["group_type"] == OVER_ROWS, "group_type is not 0, groups of rows"
    if len(arguments["x"]) == 1 and len(arguments["weight"]) == 1:
        x, weight = arguments["x"][0], arguments["weight"][0]
        yield from shapes_limits(x, weight)
        dtypes = int8_limits if x.dtype == torch.int8 else floating_limits
        yield from dtypes(arguments, x, weight)
        yield from group_list_limits(arguments, weight.shape[0])


def floating_limits(arguments: Arguments, x: Tensor, weight: Tensor) -> Conditions:
    """One floating dtype, which is the result's."""
    for name in (*SCALES, "output_dtype"):
        yield require_absent(name, arguments[name], "the factors are not quantized")
    yield require_dtype("x", x, FLOATS)
    yield require_dtype("weight", weight, (x.dtype,))


def int8_limits(arguments: Arguments, x: Tensor, weight: Tensor) -> Conditions:
    """int8 factors with scales: one of each row, in float32, and one of each column, in the dtype
    that the result's asks for.

    The documentation has scales of one dim; of one weight for all groups they are [E, N], as
    vllm-ascend gives them.
    """
    yield require_dtype("weight", weight, (torch.int8,))
    code = arguments["output_dtype"]
    yield code in SCALE_OF_RESULT, f"output_dtype is {code}, not 15 (bfloat16) or 5 (float16)"
    for name in SCALES:
        count = len(arguments[name] or ())
        yield count == 1, f"{name} is {count} tensors but must be one beside an int8 x"
    if all(len(arguments[name] or ()) == 1 for name in SCALES) and code in SCALE_OF_RESULT:
        scale, rows = (arguments[name][0] for name in SCALES)
        yield require_dtype("scale", scale, (SCALE_OF_RESULT[code],))
        yield require_dtype("per_token_scale", rows, (torch.float32,))
        columns = (weight.shape[0], weight.shape[-1])
        yield require_shape("scale", scale, columns, "one of each group's columns")
        yield require_shape("per_token_scale", rows, (x.shape[0],), "one of each row")


def shapes_limits(x: Tensor, weight: Tensor) -> Conditions:
    """[M, K] and [E, K, N]; weight may be transposed, x not."""
    ranks = x.dim() == 2 and weight.dim() == 3
    yield ranks, f"x and weight have {x.dim()} and {weight.dim()} dims but must have 2 and 3"
    if not ranks:
        return
    turned = x.stride(1) != 1 and x.shape[1] != 1
    yield not turned, "x is transposed; the operator takes only a transposed weight"
    depth, width = weight.shape[1:]
    yield require(x.shape[1] == depth, f"x has K = {x.shape[1]} but weight has K = {depth}")
    for name, size in (("K", depth), ("N", width)):
        yield require(size < INNER_LIMIT, f"{name} = {size} is not below {INNER_LIMIT}")


def group_list_limits(arguments: Arguments, groups: Any) -> Conditions:
    """int64, an entry for each group; counts of one group alone are not taken."""
    group_list, kind = arguments["group_list"], arguments["group_list_type"]
    yield group_list is not None, "group_list is missing"
    yield kind in (ENDS, COUNTS), f"group_list_type is {kind}, not 0 (ends) or 1 (counts)"
    yield require(groups <= MOST_GROUPS, f"there are {groups} groups, more than {MOST_GROUPS}")
    alone = kind == COUNTS and groups == 1
    yield not alone, "group_list has one entry, which as a count is not taken"
    if group_list is not None:
        yield require_dtype("group_list", group_list, (torch.int64,))
        yield require_shape("group_list", group_list, (groups,), "an entry for each weight")


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
