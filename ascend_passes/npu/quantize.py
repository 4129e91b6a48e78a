"""Quantization of activations: with given scales, and per token with the scale computed.

All arithmetic is float32, rounded half to even once, clamped to the output dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.accuracy import LSB, NEAREST, ULP, Bound, halves
from ascend_passes.npu.operator import (
    CODES,
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
from ascend_passes.npu.rounding import dynamic_int8, scaled, to_integer

QUANTIZED = (torch.int8, torch.uint8, torch.int32)
REDUCED = {"pertoken": (-1,), "perchannel": (-2,)}
"""The dims that share one dynamic scale; `pertensor` reduces all of them."""
SCALE_MASK = 0xFFFFE000
"""The bits of a float32 scale that the matmul's output pipe keeps: 19 of 32."""
SCALE_FLAG = 1 << 46
OFFSET_SHIFT, OFFSET_MASK = 37, 0x1FF
"""Place and width of a zero point in the same 64-bit word: 9 bits, two's complement."""


def quantize_axis(input: Tensor, axis: int, div_mode: bool) -> int:
    """The dim a 1-D scale belongs to: multiplying, the kernel takes the last unless axis < -1."""
    if not div_mode:
        axis = axis if axis < -1 else -1
    return axis if axis < 0 else axis - input.dim()


def along(values: Tensor | None, input: Tensor, axis: int) -> Tensor | None:
    """A 1-D scale or zero point shaped to broadcast along `axis` (negative) of the input."""
    if values is None or values.dim() != 1:
        return values
    return values.reshape(-1, *(1 for _ in range(-axis - 1)))


def quantize(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    dtype: int,
    axis: int = 1,
    div_mode: bool = True,
) -> Tensor:
    """`input / scales + zero_points`, or `input * scales + zero_points`, as integers."""
    axis = quantize_axis(input, axis, div_mode)
    scale, zero_point = along(scales, input, axis), along(zero_points, input, axis)
    assert scale is not None
    values = scaled(input.float(), scale, zero_point, div_mode)
    return to_integer(values, dtype_of(dtype, torch.int8))


def fake_quantize(
    input: Tensor, scales: Tensor, zero_points: Tensor | None, dtype: int, *_: Any, **__: Any
) -> Tensor:
    """Shaped like the input."""
    return empty(input, input.shape, dtype_of(dtype, torch.int8))


def dynamic_quant(
    input: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    group_index: Tensor | None = None,
    dst_type: int | None = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(int8, float32 scale)."""
    if group_index is not None or dst_type_max:
        raise NotImplementedError(
            "npu_dynamic_quant: group_index and dst_type_max have no reference"
        )
    values = input.float()
    if smooth_scales is not None:
        values = values * smooth_scales.float()
    if quant_mode == "pertensor":
        quantized, scale = dynamic_int8(values, tuple(range(values.dim())))
        return quantized, scale.reshape(1)
    dims = REDUCED[quant_mode]
    quantized, scale = dynamic_int8(values, dims)
    return quantized, scale.squeeze(dims[0])


def fake_dynamic_quant(
    input: Tensor, *, quant_mode: str = "pertoken", **_: Any
) -> tuple[Tensor, Tensor]:
    """(int8, float32 scale)."""
    shape = (
        [*input.shape[:-1]] if quant_mode == "pertoken" else [*input.shape[:-2], input.shape[-1]]
    )
    if quant_mode == "pertensor":
        shape = [1]
    return empty(input, input.shape, torch.int8), empty(input, shape, torch.float32)


def trans_quant_param(
    scale: Tensor, offset: Tensor | None = None, round_mode: int | None = 0
) -> Tensor:
    """int64 words of the matmul's output pipe: the scale in 19 bits, and the offset."""
    bits = scale.float().contiguous().view(torch.int32).long()
    if round_mode == 1:
        bits = bits + 0x1000  # half of the last kept bit: round to nearest, ties up
    words = (bits & SCALE_MASK) | SCALE_FLAG
    if offset is None:
        return words
    places = offset.float().round().clamp(-256, 255).long() & OFFSET_MASK
    return words | (places << OFFSET_SHIFT)


def scale_of_words(words: Tensor) -> Tensor:
    """The float32 scale in the words of `npu_trans_quant_param`."""
    return (words & 0xFFFFFFFF).to(torch.uint32).view(torch.float32)


def offset_of_words(words: Tensor) -> Tensor:
    """The zero point in the words of `npu_trans_quant_param`, as float32."""
    places = (words >> OFFSET_SHIFT) & OFFSET_MASK
    return torch.where(places > OFFSET_MASK // 2, places - OFFSET_MASK - 1, places).float()


def fake_trans_quant_param(
    scale: Tensor, offset: Tensor | None = None, round_mode: int | None = 0
) -> Tensor:
    """int64, of the larger of the two sizes."""
    if offset is None or scale.dim() != 1:
        return empty(scale, scale.shape, torch.int64)
    return empty(scale, torch.broadcast_shapes(scale.shape, offset.shape), torch.int64)


def quantize_limits(arguments: Arguments, soc: str) -> Conditions:
    """Dividing (aclnnQuantize) and multiplying (aclnnAscendQuant) have their own dtype tables."""
    x, scales, zeros = arguments["input"], arguments["scales"], arguments["zero_points"]
    divide, axis, code = arguments["div_mode"], arguments["axis"], arguments["dtype"]
    yield require_dtype("input", x, FLOATS)
    yield code in CODES and CODES[code] in QUANTIZED, f"dtype {code} is not int8, uint8 or int32"
    if divide:
        yield require_dtype("scales", scales, (torch.float32, torch.bfloat16))
        zero_dtypes: tuple[torch.dtype, ...] = (*QUANTIZED, torch.bfloat16)
    else:
        same = (x.dtype,) if x.dtype != torch.float32 else FLOATS
        yield require_dtype("scales", scales, same)
        zero_dtypes = (scales.dtype,)
        yield code in INT8_CODES, f"dtype {code} is not int8, the only one with div_mode False here"
    yield -x.dim() <= axis < x.dim(), f"axis {axis} is outside an input of {x.dim()} dims"
    if not -x.dim() <= axis < x.dim():
        return
    size = x.shape[quantize_axis(x, axis, divide)]
    fits = scales.dim() == 1 and (
        require(scales.shape[0] == 1, "")[0] or require(scales.shape[0] == size, "")[0]
    )
    yield fits, f"scales has shape {list(scales.shape)} but must be 1-D, of size 1 or of the axis"
    if zeros is not None:
        yield require_dtype("zero_points", zeros, zero_dtypes)
        yield require_shape("zero_points", zeros, tuple(scales.shape), "the shape of scales")


def dynamic_quant_limits(arguments: Arguments, soc: str) -> Conditions:
    """float16 or bfloat16 of 2 or more dims; smooth scales like the last dim, of the same dtype."""
    x, smooth = arguments["input"], arguments["smooth_scales"]
    yield require_dtype("input", x, FLOATS[:2])
    yield x.dim() >= 2, f"input has {x.dim()} dims but must have 2 or more"
    mode = arguments["quant_mode"]
    yield mode == "pertoken", f"quant_mode is {mode!r} but only 'pertoken' works on every device"
    yield require_absent("group_index", arguments["group_index"], "is for experts only")
    yield not arguments["dst_type_max"], "dst_type_max is given but is for float8 results only"
    code = arguments["dst_type"]
    yield code is None or code in INT8_CODES, f"dst_type {code} is not int8"
    if smooth is not None:
        yield require_dtype("smooth_scales", smooth, (x.dtype,))
        yield require_shape("smooth_scales", smooth, (x.shape[-1],), "the last dim of input")


def trans_quant_param_limits(arguments: Arguments, soc: str) -> Conditions:
    """float32, shapes (n,) or (1, n)."""
    scale, offset = arguments["scale"], arguments["offset"]
    yield require_dtype("scale", scale, (torch.float32,))
    row = scale.dim() == 2 and require(scale.shape[0] == 1, "")[0]
    yield scale.dim() == 1 or row, f"scale has shape {list(scale.shape)} but must be (n,) or (1, n)"
    yield arguments["round_mode"] in (0, 1), f"round_mode is {arguments['round_mode']}, not 0 or 1"
    if offset is not None:
        yield require_dtype("offset", offset, (torch.float32,))
        yield require_shape("offset", offset, tuple(scale.shape), "the shape of scale")


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_quantize",
        "npu_quantize(Tensor input, Tensor scales, Tensor? zero_points, int dtype, int axis=1,"
        " bool div_mode=True) -> Tensor",
        fake_quantize,
        quantize,
        quantize_limits,
        "torch_npu.npu_quantize; aclnnQuantize (div_mode True), aclnnAscendQuant (False)",
        rows=("input",),
        columns=("axis",),
        identity="sink_quantize",
        accuracy=(Bound("y", LSB, halves(NEAREST, NEAREST)),),
        converter="Quantize",
    ),
    Operator(
        "npu_dynamic_quant",
        "npu_dynamic_quant(Tensor input, *, Tensor? smooth_scales=None, Tensor? group_index=None,"
        ' int? dst_type=None, str quant_mode="pertoken", float dst_type_max=0.)'
        " -> (Tensor, Tensor)",
        fake_dynamic_quant,
        dynamic_quant,
        dynamic_quant_limits,
        "torch_npu.npu_dynamic_quant; aclnnDynamicQuant",
        rows=("input",),
        rows_if={"group_index": (None,), "quant_mode": ("pertoken",)},
        identity="sink_quantize",
        accuracy=(Bound("y", LSB, halves(NEAREST)), Bound("scale", ULP, halves(2.0))),
        converter="DynamicQuant",
    ),
    Operator(
        "npu_trans_quant_param",
        "npu_trans_quant_param(Tensor scale, Tensor? offset=None, int? round_mode=0) -> Tensor",
        fake_trans_quant_param,
        trans_quant_param,
        trans_quant_param_limits,
        "torch_npu.npu_trans_quant_param; aclnnTransQuantParamV2",
        accuracy="the upper 19 bits of each scale, offsets as they are",
        converter="TransQuantParamV2",
    ),
)
