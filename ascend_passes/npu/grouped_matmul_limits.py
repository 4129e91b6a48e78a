"""The documented limits of several products in one operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.ir.proof import prove
from ascend_passes.npu.matmul import CODE_BFLOAT16, CODE_FLOAT16
from ascend_passes.npu.operator import (
    A2,
    A3,
    FLOATS,
    HALVES,
    Arguments,
    Conditions,
    is_soc,
    require,
    require_absent,
    require_dtype,
    require_shape,
)

INNER_LIMIT = 65536
"""InnerLimit of the documentation: the last dims of x and of weight, as they lie, are below it."""
MOST_GROUPS = 1024
"""Largest size of group_list beside one weight of three dims."""
ENDS, COUNTS = 0, 1
"""group_list_type: group_list holds where each group ends, or how many rows each has."""
ONE_RESULT = (2, 3)
"""Values of split_item for which all groups are rows of one result."""
OVER_ROWS, APART = 0, -1
"""group_type: the groups are rows of x, or nothing is grouped: x, weight and result are lists."""
RESULT_EACH = 0
"""split_item for which each weight has a result of its own. The documentation has 1 for the same,
but torch_npu's shapes of that ask for a group_list."""
MOST_APART = 128
"""Longest lists of x and weight."""
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


def grouped_matmul_limits(arguments: Arguments, soc: str) -> Conditions:
    """Groups of rows of one tensor, or products apart, and what neither takes here."""
    yield is_soc(soc, A2, A3), f"the limits on {soc} are not known here"
    for name in OTHER_QUANTIZED:
        yield require_absent(name, arguments[name], "has no reference here")
    for name in RESERVED:
        yield require_absent(name, arguments[name], "is reserved")
    yield require_absent("tuning_config", arguments["tuning_config"], "has no reference here")
    yield not arguments["act_type"], "act_type is given but only a per-token quantized x takes it"
    apart = arguments["group_type"] == APART
    yield from apart_limits(arguments) if apart else over_rows_limits(arguments)


def over_rows_limits(arguments: Arguments) -> Conditions:
    """One x, one weight and one result, grouped over rows: the documentation's case of one tensor
    each, without quantization or with a scale of each row. That the groups are all of x is of the
    content of group_list."""
    for name in ("x", "weight"):
        count = len(arguments[name])
        yield count == 1, f"{name} is {count} tensors but must be one"
    yield arguments["split_item"] in ONE_RESULT, "split_item is not 2 or 3, one result"
    grouped = arguments["group_type"] == OVER_ROWS
    yield grouped, "group_type is not 0, groups of rows, or -1, products apart"
    yield require_absent("bias", arguments["bias"], "has no reference here")
    if len(arguments["x"]) == 1 and len(arguments["weight"]) == 1:
        x, weight = arguments["x"][0], arguments["weight"][0]
        yield from shapes_limits(x, weight)
        dtypes = int8_limits if x.dtype == torch.int8 else floating_limits
        yield from dtypes(arguments, x, weight)
        yield from group_list_limits(arguments, weight.shape[0])


def apart_limits(arguments: Arguments) -> Conditions:
    """Lists of several x and weights, with a result for each: the documentation's case of several
    tensors each. Whether a list may name one tensor several times it does not say."""
    x, weight = arguments["x"], arguments["weight"]
    split = arguments["split_item"]
    yield split == RESULT_EACH, "split_item is not 0, a result for each weight"
    yield require_absent("group_list", arguments["group_list"], "nothing is grouped")
    fits = 1 <= len(x) == len(weight) <= MOST_APART
    yield fits, f"{len(x)} x and {len(weight)} weights are not as many, 1 to {MOST_APART}"
    turned = {is_transposed(one) for one in weight if one.dim() == 2}
    yield len(turned) < 2, "some weights are transposed and some are not"
    for one, own in zip(x, weight, strict=False):
        yield require_dtype("x", one, (*HALVES, torch.int8))
        yield require_dtype("weight", own, (x[0].dtype,))
        ranks = one.dim() == own.dim() == 2
        yield ranks, f"x and weight have {one.dim()} and {own.dim()} dims but must have 2"
        if ranks:
            yield from factor_limits(one, *own.shape)
            lies = own.is_contiguous() or own.mT.is_contiguous()
            yield lies, "a weight is neither contiguous nor the transpose of one that is"
    if x and x[0].dtype == torch.int8:
        yield from int8_apart_limits(arguments)
    else:
        yield from unquantized_limits(arguments)
        yield require_absent("bias", arguments["bias"], "has no reference here")


def int8_apart_limits(arguments: Arguments) -> Conditions:
    """Lists of int8 factors: a scale of each column, in the dtype that the results' asks for, and
    an int32 bias or none. Scales of rows are for single tensors only."""
    rows, code, bias = (arguments[name] for name in ("per_token_scale", "output_dtype", "bias"))
    yield require_absent("per_token_scale", rows, "is for single tensors only")
    yield code in SCALE_OF_RESULT, f"output_dtype is {code}, not 15 (bfloat16) or 5 (float16)"
    if code in SCALE_OF_RESULT:
        scales, dtype = arguments["scale"] or [], SCALE_OF_RESULT[code]
        yield from listed_limits("scale", scales, dtype, arguments["weight"])
    if bias is not None:
        yield from listed_limits("bias", bias, torch.int32, arguments["weight"])


def listed_limits(
    name: str, listed: list[Tensor], dtype: torch.dtype, weight: list[Tensor]
) -> Conditions:
    """One of each column of each weight."""
    count = len(listed)
    yield count == len(weight), f"{name} is {count} tensors but weight is {len(weight)}"
    for one, own in zip(listed, weight, strict=False):
        yield require_dtype(name, one, (dtype,))
        yield require_shape(name, one, (own.shape[-1],), "one of each column")


def is_transposed(weight: Tensor) -> bool:
    """Whether a matrix lies in memory column by column."""
    return prove(weight.stride(0) == 1) and not prove(weight.stride(1) == 1)


def floating_limits(arguments: Arguments, x: Tensor, weight: Tensor) -> Conditions:
    """One floating dtype, which is the result's."""
    yield from unquantized_limits(arguments)
    yield require_dtype("x", x, FLOATS)
    yield require_dtype("weight", weight, (x.dtype,))


def unquantized_limits(arguments: Arguments) -> Conditions:
    """Nothing that goes with int8 factors alone."""
    for name in (*SCALES, "output_dtype"):
        yield require_absent(name, arguments[name], "the factors are not quantized")


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
    yield from factor_limits(x, *weight.shape[1:])


def factor_limits(x: Tensor, depth: Any, width: Any) -> Conditions:
    """[M, K] as it lies, beside weights of [K, N]."""
    turned = x.stride(1) != 1 and x.shape[1] != 1
    yield not turned, "x is transposed; the operator takes only a transposed weight"
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
