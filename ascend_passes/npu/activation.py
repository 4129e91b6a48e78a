"""SwiGLU, alone and between a dequantize and a quantize; float32 inside, rounded once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.accuracy import LSB, NEAREST_BEHIND, ONE_ROUNDING, SINGLE, ULP, Bound, halves
from ascend_passes.npu.operator import (
    FLOATS,
    INT8_CODES,
    Arguments,
    Conditions,
    Operator,
    dtype_of,
    empty,
    require,
    require_absent,
    require_dtype,
    require_shape,
)
from ascend_passes.npu.rounding import dynamic_int8, to_integer

STATIC, DYNAMIC = 0, 1
SWIGLU_QUANT_LAST_DIM = 8192
"""Largest last dim of x for `npu_swiglu_quant`, by its documentation."""
PLAIN = 0
"""swiglu_mode of the ordinary SwiGLU; 1 is the clamped variant on interleaved columns."""


def gated(x: Tensor, dim: int, activate_left: bool) -> Tensor:
    """float32 `silu(one half) * other half` of a float32 value."""
    left, right = x.chunk(2, dim)
    gate, other = (left, right) if activate_left else (right, left)
    return torch.nn.functional.silu(gate).mul_(other)


def halved(x: Tensor, dim: int) -> list[Any]:
    """The shape of x with one dim halved."""
    shape = list(x.shape)
    shape[dim] = shape[dim] // 2
    return shape


def swiglu(input: Tensor, dim: int = -1) -> Tensor:
    """`silu(first half) * second half`."""
    return gated(input.float(), dim, True).to(input.dtype).contiguous()


def fake_swiglu(input: Tensor, dim: int = -1) -> Tensor:
    """The input's shape with `dim` halved."""
    return empty(input, halved(input, dim))


def quantized(values: Tensor, offset: Tensor | None, quant_mode: int) -> tuple[Tensor, Tensor]:
    """int8 of smoothed float32 values, and the scale; a static quantize leaves the scale zero."""
    if quant_mode == DYNAMIC:
        y, scale = dynamic_int8(values)
        return y, scale.squeeze(-1)
    y = to_integer(values if offset is None else values + offset.float())
    return y, torch.zeros(values.shape[:-1], device=values.device)


def swiglu_quant(
    x: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    offsets: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = False,
    quant_mode: int = STATIC,
    group_list_type: int = 0,
    dst_type: torch.dtype | int | None = None,
) -> tuple[Tensor, Tensor]:
    """(int8, scale): static `swiglu * smooth_scales + offsets`, or per token after smoothing."""
    if group_index is not None:
        raise NotImplementedError("npu_swiglu_quant: groups of experts have no reference")
    values = gated(x.float(), -1, activate_left)
    if smooth_scales is not None:
        values = values * smooth_scales.float()
    return quantized(values, offsets, quant_mode)


def fake_swiglu_quant(x: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """(int8 of half the columns, one float32 scale per row)."""
    return empty(x, halved(x, -1), torch.int8), empty(x, x.shape[:-1], torch.float32)


def dequant_swiglu_quant(
    x: Tensor,
    *,
    weight_scale: Tensor | None = None,
    activation_scale: Tensor | None = None,
    bias: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = False,
    quant_mode: int = STATIC,
    dst_type: int | None = None,
    round_mode: int | None = None,
    activate_dim: int | None = None,
    swiglu_mode: int = PLAIN,
    clamp_limit: float = 7.0,
    glu_alpha: float = 1.702,
    glu_bias: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(int8, scale): dequantize int32, SwiGLU, then quantize; a static quant_scale divides."""
    if (
        group_index is not None
        or swiglu_mode != PLAIN
        or round_mode
        or activate_dim not in (None, -1)
    ):
        raise NotImplementedError("npu_dequant_swiglu_quant: only the plain form has a reference")
    if bias is not None and bias.dtype == torch.int32:
        x, bias = x + bias, None
    values = x.float()
    if weight_scale is not None:
        values = values * weight_scale.float()
    if activation_scale is not None:
        values = values * activation_scale.float().reshape(*x.shape[:-1], 1)
    if bias is not None:
        values = values + bias.float()
    values = gated(values, -1, activate_left)
    if quant_scale is not None:
        scale = quant_scale.float()
        values = values * scale if quant_mode == DYNAMIC else values / scale
    return quantized(values, quant_offset, quant_mode)


def fake_dequant_swiglu_quant(
    x: Tensor, *, dst_type: int | None = None, activate_dim: int | None = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """(int8 with one dim halved, float32 scale without the last dim)."""
    shape = halved(x, -1 if activate_dim is None else activate_dim)
    return empty(x, shape, dtype_of(dst_type, torch.int8)), empty(x, shape[:-1], torch.float32)


def even_limit(x: Tensor, dim: int) -> tuple[bool, str]:
    """The halved dim is even."""
    return require(x.shape[dim] % 2 == 0, f"dim {dim} has size {x.shape[dim]}, which is not even")


def swiglu_limits(arguments: Arguments, soc: str) -> Conditions:
    """Float dtypes; the split dim exists and is even."""
    x, dim = arguments["input"], arguments["dim"]
    yield require_dtype("input", x, FLOATS)
    inside = -x.dim() <= dim < x.dim()
    yield inside, f"dim {dim} is outside an input of {x.dim()} dims"
    if inside:
        yield even_limit(x, dim)


def swiglu_quant_limits(arguments: Arguments, soc: str) -> Conditions:
    """More than one dim, an even last dim of at most 8192, float32 smooth scales and offsets."""
    x, mode = arguments["x"], arguments["quant_mode"]
    yield require_dtype("x", x, FLOATS)
    yield x.dim() > 1, f"x has {x.dim()} dim but must have 2 or more"
    if x.dim() < 1:
        return
    size = x.shape[-1]
    yield require(
        size <= SWIGLU_QUANT_LAST_DIM, f"the last dim of x is {size}, over {SWIGLU_QUANT_LAST_DIM}"
    )
    yield even_limit(x, -1)
    yield mode in (STATIC, DYNAMIC), f"quant_mode is {mode}, not 0 (static) or 1 (dynamic)"
    yield require_absent("group_index", arguments["group_index"], "is for experts only")
    dtype = arguments["dst_type"]
    yield dtype in (None, torch.int8, *INT8_CODES), f"dst_type {dtype} is not int8"
    needed = mode == DYNAMIC or arguments["smooth_scales"] is not None
    yield needed, "a static quantize needs smooth_scales"
    useless = mode == DYNAMIC and arguments["offsets"] is not None
    yield not useless, "offsets is given but a dynamic quantize takes none"
    for name in ("smooth_scales", "offsets"):
        tensor = arguments[name]
        if tensor is None:
            continue
        yield require_dtype(name, tensor, (torch.float32,))
        shapes = ((1,), (1, size // 2))
        fits = any(require_shape(name, tensor, shape, "")[0] for shape in shapes)
        yield fits, f"{name} has shape {list(tensor.shape)} but must be [1] or [1, {size // 2}]"


def dequant_swiglu_quant_limits(arguments: Arguments, soc: str) -> Conditions:
    """2-D x; int32 needs both scales, a float takes neither."""
    x, mode = arguments["x"], arguments["quant_mode"]
    yield require_dtype("x", x, (torch.int32, torch.float16, torch.bfloat16))
    yield x.dim() == 2, f"x has {x.dim()} dims but must have 2"
    if x.dim() != 2:
        return
    rows, size = x.shape
    yield even_limit(x, -1)
    yield mode in (STATIC, DYNAMIC), f"quant_mode is {mode}, not 0 (static) or 1 (dynamic)"
    yield require_absent("group_index", arguments["group_index"], "is for experts only")
    yield arguments["swiglu_mode"] == PLAIN, "swiglu_mode is not 0, the plain SwiGLU"
    code = arguments["dst_type"]
    yield code is None or code in INT8_CODES, f"dst_type {code} is not int8"
    yield (
        not arguments["round_mode"],
        f"round_mode is {arguments['round_mode']}, not 0 (half to even)",
    )
    dim = arguments["activate_dim"]
    yield dim in (None, -1, 1), f"activate_dim is {dim} but only the last dim is supported"
    for name in ("weight_scale", "activation_scale"):
        given = arguments[name] is not None
        yield given == (x.dtype == torch.int32), f"{name} goes with int32 x, and x is {x.dtype}"
    for name, tensor, dtypes, shapes in (
        ("weight_scale", arguments["weight_scale"], (torch.float32,), ((size,), (1, size))),
        ("activation_scale", arguments["activation_scale"], (torch.float32,), ((rows,), (rows, 1))),
        ("bias", arguments["bias"], (torch.int32,), ((size,), (1, size))),
        ("quant_scale", arguments["quant_scale"], FLOATS, ((size // 2,), (1, size // 2))),
        ("quant_offset", arguments["quant_offset"], FLOATS, ((size // 2,), (1, size // 2))),
    ):
        if tensor is None:
            continue
        yield require_dtype(name, tensor, dtypes)
        fits = any(require_shape(name, tensor, shape, "")[0] for shape in shapes)
        yield (
            fits,
            f"{name} has shape {list(tensor.shape)} but must be {' or '.join(map(str, shapes))}",
        )
    useless = mode == DYNAMIC and arguments["quant_offset"] is not None
    yield not useless, "quant_offset is given but a dynamic quantize takes none"


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_swiglu",
        "npu_swiglu(Tensor input, int dim=-1) -> Tensor",
        fake_swiglu,
        swiglu,
        swiglu_limits,
        "torch_npu.npu_swiglu; aclnnSwiGlu",
        rows=("input",),
        columns=("dim",),
        activation=True,
        accuracy=(Bound("y", ULP, halves(ONE_ROUNDING, SINGLE)),),
        converter="SwiGlu",
    ),
    Operator(
        "npu_swiglu_quant",
        "npu_swiglu_quant(Tensor x, *, Tensor? smooth_scales=None, Tensor? offsets=None,"
        " Tensor? group_index=None, bool activate_left=False, int quant_mode=0,"
        " int group_list_type=0, ScalarType? dst_type=None) -> (Tensor, Tensor)",
        fake_swiglu_quant,
        swiglu_quant,
        swiglu_quant_limits,
        "torch_npu.npu_swiglu_quant; aclnnSwiGluQuantV2",
        rows=("x",),
        rows_if={"group_index": (None,)},
        identity="sink_quantize",
        activation=True,
        accuracy=(
            Bound("y", LSB, halves(NEAREST_BEHIND, NEAREST_BEHIND)),
            Bound("scale", ULP, halves(SINGLE, SINGLE)),
        ),
    ),
    Operator(
        "npu_dequant_swiglu_quant",
        "npu_dequant_swiglu_quant(Tensor x, *, Tensor? weight_scale=None,"
        " Tensor? activation_scale=None, Tensor? bias=None, Tensor? quant_scale=None,"
        " Tensor? quant_offset=None, Tensor? group_index=None, bool activate_left=False,"
        " int quant_mode=0, int? dst_type=None, int? round_mode=None, int? activate_dim=None,"
        " int swiglu_mode=0, float clamp_limit=7., float glu_alpha=1.702, float glu_bias=1.)"
        " -> (Tensor, Tensor)",
        fake_dequant_swiglu_quant,
        dequant_swiglu_quant,
        dequant_swiglu_quant_limits,
        "torch_npu.npu_dequant_swiglu_quant; aclnnDequantSwigluQuant",
        rows=("x", "activation_scale"),
        rows_if={"group_index": (None,), "activate_dim": (None, -1)},
        identity="sink_quantize",
        activation=True,
        accuracy=(
            Bound("y", LSB, {torch.int32: NEAREST_BEHIND}),
            Bound("scale", ULP, {torch.int32: 3 * SINGLE}),
        ),
        converter="DequantSwigluQuant",
    ),
)
