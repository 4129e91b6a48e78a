"""The W8A8 matmul: int8 times int8, summed exactly, scaled once."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ascend_passes.ir.traits import Matmul
from ascend_passes.npu.accuracy import LSB, ONE_ROUNDING, ULP, Bound, halves
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
)
from ascend_passes.npu.quantize import offset_of_words, scale_of_words
from ascend_passes.npu.rounding import to_integer

EXACT_TERMS = 1024
"""Products of int8 that float32 sums exactly: 1024 * 128 * 128 = 2**24."""
LAST_DIM_LIMIT = 65535
CUDA_MIN_ROWS, CUDA_MULTIPLE = 17, 8
"""What torch._int_mm asks of its shapes on CUDA."""
CODE_INT8, CODE_FLOAT16, CODE_INT32, CODE_BFLOAT16 = 1, 5, 3, 15


def integer_matmul(left: Tensor, right: Tensor) -> Tensor:
    """int32 `left @ right` of int8 matrices, exact; leading dims broadcast."""
    if right.dim() > 2:
        return batched_matmul(left, right)
    rows = left.flatten(0, -2)
    product = fast_matmul if fits_fast_matmul(rows, right) else chunked_matmul
    return product(rows, right).reshape(*left.shape[:-1], right.shape[-1])


def batched_matmul(left: Tensor, right: Tensor) -> Tensor:
    """`integer_matmul` for each matrix of a batch."""
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    count = math.prod(batch)
    lefts = left.expand(*batch, *left.shape[-2:]).reshape(count, *left.shape[-2:])
    rights = right.expand(*batch, *right.shape[-2:]).reshape(count, *right.shape[-2:])
    products = [integer_matmul(a, b) for a, b in zip(lefts, rights, strict=True)]
    shape = (*batch, left.shape[-2], right.shape[-1])
    return (
        torch.stack(products).reshape(shape)
        if products
        else left.new_empty(shape, dtype=torch.int32)
    )


def fits_fast_matmul(rows: Tensor, right: Tensor) -> bool:
    """Whether torch._int_mm takes the operands and sums them exactly."""
    if 0 in (*rows.shape, *right.shape):
        return False
    if rows.device.type == "cuda":
        return right.shape[0] % CUDA_MULTIPLE == 0 and right.shape[1] % CUDA_MULTIPLE == 0
    deep = (
        right.shape[0] > 1
    )  # with K = 1 and a transposed right side CPU results are never written
    return rows.device.type == "cpu" and deep and cpu_sums_exactly()


@functools.cache
def cpu_sums_exactly() -> bool:
    """Whether this CPU's int8 kernel does not saturate inside, as kernels without VNNI can."""
    with torch._C._DisableTorchDispatch():  # also while a graph is traced
        left = torch.full((1, 64), 127, dtype=torch.int8)
        right = torch.full((64, 1), -128, dtype=torch.int8)
        low, high = int(torch._int_mm(left, right)), int(torch._int_mm(left, -1 - right))
    return (low, high) == (-64 * 127 * 128, 64 * 127 * 127)


def fast_matmul(rows: Tensor, right: Tensor) -> Tensor:
    """torch's own int8 matmul, with rows added where CUDA wants more."""
    count = rows.shape[0]
    if rows.device.type == "cuda" and count < CUDA_MIN_ROWS:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, CUDA_MIN_ROWS - count))
    return torch._int_mm(rows.contiguous(), right)[:count]


def chunked_matmul(rows: Tensor, right: Tensor) -> Tensor:
    """float32 matmuls over so few terms that each is exact, added as int32."""
    total = torch.zeros(rows.shape[0], right.shape[1], dtype=torch.int32, device=rows.device)
    for start in range(0, rows.shape[1], EXACT_TERMS):
        terms = slice(start, start + EXACT_TERMS)
        total += (rows[:, terms].float() @ right[terms].float()).to(torch.int32)
    return total


def quant_matmul(
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
) -> Tensor:
    """`(x1 @ x2 + int32 bias) * scale * pertoken_scale + float bias`, or int8 of it plus offset."""
    dtype = dtype_of(output_dtype, torch.int8)
    if dtype not in (torch.int8, torch.float16, torch.bfloat16):
        raise NotImplementedError(f"npu_quant_matmul: no reference for results of {dtype}")
    if x1.dtype != torch.int8 or x2.dtype != torch.int8 or group_sizes or y_scale is not None:
        raise NotImplementedError("npu_quant_matmul: only int8 times int8 has a reference")
    total = integer_matmul(x1, x2)
    if bias is not None and bias.dtype == torch.int32:
        total = total + bias
    values = total.float() * (
        scale_of_words(scale) if scale.dtype == torch.int64 else scale.float()
    )
    if pertoken_scale is not None:
        values = values * pertoken_scale.float().unsqueeze(-1)
    if bias is not None and bias.dtype != torch.int32:
        values = values + bias.float()
    if dtype != torch.int8:
        return values.to(dtype)
    if scale.dtype == torch.int64:
        values = values + offset_of_words(scale)
    return to_integer(values if offset is None else values + offset)


def fake_quant_matmul(
    x1: Tensor, x2: Tensor, scale: Tensor, *, output_dtype: int | None = None, **_: Any
) -> Tensor:
    """[..., M, N] with the leading dims of x1 and x2 broadcast."""
    torch._check(x1.shape[-1] == x2.shape[-2], lambda: "x1 and x2 differ in K")
    batch = torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
    return empty(x1, [*batch, x1.shape[-2], x2.shape[-1]], dtype_of(output_dtype, torch.int8))


def quant_matmul_limits(arguments: Arguments, soc: str) -> Conditions:
    """int8 operands and the dtype table of scale, bias and result on A2 and A3."""
    x1, x2, scale = arguments["x1"], arguments["x2"], arguments["scale"]
    pertoken, bias, offset = (arguments[name] for name in ("pertoken_scale", "bias", "offset"))
    yield require_dtype("x1", x1, (torch.int8,))
    yield require_dtype("x2", x2, (torch.int8,))
    for name in (
        "x1_dtype",
        "x2_dtype",
        "scale_dtype",
        "pertoken_scale_dtype",
        "group_sizes",
        "y_scale",
    ):
        yield require_absent(name, arguments[name], "int8 operands do not take it")
    ranks = 2 <= x1.dim() <= 6 and 2 <= x2.dim() <= 6
    yield ranks, f"x1 and x2 have {x1.dim()} and {x2.dim()} dims but must have 2 to 6"
    if not ranks:
        return
    depth, width = x2.shape[-2], x2.shape[-1]
    yield require(x1.shape[-1] == depth, f"x1 has K = {x1.shape[-1]} but x2 has K = {depth}")
    yield require(depth <= LAST_DIM_LIMIT, f"K = {depth} is over {LAST_DIM_LIMIT}")
    yield require(width <= LAST_DIM_LIMIT, f"N = {width} is over {LAST_DIM_LIMIT}")
    one_or_all = scale.dim() == 1 and (
        require(scale.shape[0] == 1, "")[0] or require(scale.shape[0] == width, "")[0]
    )
    yield (
        one_or_all,
        f"scale has shape {list(scale.shape)} but must be 1-D of size 1 or N = {width}",
    )
    code = arguments["output_dtype"]
    result = CODE_INT8 if code is None else int(code)
    results = (CODE_INT8, CODE_FLOAT16, CODE_BFLOAT16)
    yield result in results, f"output_dtype {code} is not int8, float16 or bfloat16"
    yield from scale_limits(scale, pertoken, result)
    if pertoken is not None:
        yield require_dtype("pertoken_scale", pertoken, (torch.float32,))
        rows = pertoken.dim() == 1 and require(pertoken.shape[0] == x1.shape[-2], "")[0]
        yield rows, f"pertoken_scale has shape {list(pertoken.shape)} but must be 1-D, one per row"
        yield result != CODE_INT8, "pertoken_scale is given but an int8 result takes none"
    if bias is not None:
        yield from bias_limits(bias, pertoken, result, x1, x2)
    if offset is not None:
        yield result == CODE_INT8, "offset is given but only an int8 result takes it"
        yield require_dtype("offset", offset, (torch.float32,))
    yield (
        is_soc(soc, A2, A3) or scale.dtype != torch.int64,
        f"int64 scales are for A2 and A3, not {soc}",
    )


def scale_limits(scale: Tensor, pertoken: Tensor | None, result: int) -> Conditions:
    """The scale's dtype by the result's; graphs take only int64 for a plain float16 result."""
    if result == CODE_BFLOAT16:
        yield require_dtype("scale", scale, (torch.float32, torch.bfloat16))
    elif result == CODE_FLOAT16 and pertoken is not None:
        yield require_dtype("scale", scale, (torch.float32,))
    else:
        yield require_dtype("scale", scale, (torch.int64,))


def bias_limits(
    bias: Tensor, pertoken: Tensor | None, result: int, x1: Tensor, x2: Tensor
) -> Conditions:
    """int32 always; bfloat16 or float32 for bfloat16; float16 or float32 per token for float16."""
    allowed: tuple[torch.dtype, ...] = (torch.int32,)
    if result == CODE_BFLOAT16:
        allowed = (torch.int32, torch.bfloat16, torch.float32)
    elif result == CODE_FLOAT16 and pertoken is not None:
        allowed = (torch.int32, torch.float16, torch.float32)
    yield require_dtype("bias", bias, allowed)
    width = x2.shape[-1]
    flat = bias.dim() == 1 and require(bias.shape[0] == width, "")[0]
    deep = False
    if bias.dim() == 3 and max(x1.dim(), x2.dim()) == 3:
        batch = math.prod(torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2]))
        deep = all(
            require(found == wanted, "")[0]
            for found, wanted in zip(bias.shape, (batch, 1, width), strict=True)
        )
    yield (
        flat or deep,
        f"bias has shape {list(bias.shape)} but must be (N,) or (batch, 1, N), N = {width}",
    )


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_quant_matmul",
        "npu_quant_matmul(Tensor x1, Tensor x2, Tensor scale, *, Tensor? offset=None,"
        " Tensor? pertoken_scale=None, Tensor? bias=None, int? output_dtype=None,"
        " int? x1_dtype=None, int? x2_dtype=None, int? pertoken_scale_dtype=None,"
        " int? scale_dtype=None, int[]? group_sizes=None, Tensor? y_scale=None) -> Tensor",
        fake_quant_matmul,
        quant_matmul,
        quant_matmul_limits,
        "torch_npu.npu_quant_matmul; aclnnQuantMatmulV4",
        matmul=Matmul(
            "x1",
            "x2",
            bias="bias",
            scale="scale",
            row_scale="pertoken_scale",
            shows=("output_dtype",),
        ),
        accuracy=(
            Bound("y", ULP, halves(ONE_ROUNDING)),
            Bound("y in int8", LSB, {torch.int8: 0.5}),
        ),
        converter="QuantBatchMatmulV3",
    ),
)
