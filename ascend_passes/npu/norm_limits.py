"""The documented limits of the norm operators."""

from __future__ import annotations

import torch
from torch import Tensor

from ascend_passes.npu.operator import (
    A2,
    A3,
    FLOATS,
    HALVES,
    INT8_CODES,
    Arguments,
    Conditions,
    is_soc,
    require,
    require_dtype,
    require_shape,
)


def gain_limits(x: Tensor, gamma: Tensor) -> Conditions:
    """gamma has the shape of the last dims of x."""
    inside = 1 <= gamma.dim() <= x.dim()
    yield inside, f"gamma has {gamma.dim()} dims but x has {x.dim()}"
    if inside:
        yield require_shape("gamma", gamma, tuple(x.shape[-gamma.dim() :]), "the last dims of x")


def rms_norm_limits(arguments: Arguments, soc: str) -> Conditions:
    """float16, bfloat16 or float32; gamma of the same dtype, or float32."""
    x, gamma = arguments["input"], arguments["gamma"]
    yield require_dtype("input", x, FLOATS)
    yield require_dtype("gamma", gamma, (x.dtype, torch.float32))
    yield from gain_limits(x, gamma)


def gemma_rms_norm_limits(arguments: Arguments, soc: str) -> Conditions:
    """As npu_rms_norm; contiguous inputs only."""
    x, gamma = arguments["input"], arguments["gamma"]
    yield require_dtype("input", x, FLOATS)
    yield require_dtype("gamma", gamma, (x.dtype,))
    yield from gain_limits(x, gamma)
    contiguous = x.is_contiguous() and gamma.is_contiguous()
    yield contiguous, "input or gamma is not contiguous, which this operator needs"


def pair_limits(arguments: Arguments, allowed: tuple[torch.dtype, ...]) -> Conditions:
    """x1 and x2 of one shape and, with gamma, of one dtype."""
    x1, x2, gamma = arguments["x1"], arguments["x2"], arguments["gamma"]
    yield require_dtype("x1", x1, allowed)
    yield require_dtype("x2", x2, (x1.dtype,))
    yield require_dtype("gamma", gamma, (x1.dtype,))
    yield require_shape("x2", x2, tuple(x1.shape), "the shape of x1")
    yield from gain_limits(x1, gamma)


def add_rms_norm_limits(arguments: Arguments, soc: str) -> Conditions:
    """float16, bfloat16 or float32, one dtype for all."""
    yield from pair_limits(arguments, FLOATS)


def add_rms_norm_cast_limits(arguments: Arguments, soc: str) -> Conditions:
    """float16 or bfloat16, one dtype for all."""
    yield from pair_limits(arguments, HALVES)


def add_rms_norm_quant_limits(arguments: Arguments, soc: str) -> Conditions:
    """The dtype table of A2 and A3: float16 with float32/int32, bfloat16 with bfloat16/bfloat16."""
    x1, gamma = arguments["x1"], arguments["gamma"]
    yield from pair_limits(arguments, HALVES)
    scale_dtype, zero_dtype = torch.float32, torch.int32
    mixed = not is_soc(soc, A2, A3) and arguments["scales1"].dtype == torch.float32
    if x1.dtype == torch.bfloat16 and not mixed:
        scale_dtype, zero_dtype = torch.bfloat16, torch.bfloat16
    for name, dtype in (
        ("scales1", scale_dtype),
        ("zero_points1", zero_dtype),
        ("beta", x1.dtype),
        ("scales2", scale_dtype),
        ("zero_points2", zero_dtype),
    ):
        tensor = arguments[name]
        if tensor is None:
            continue
        yield require_dtype(name, tensor, (dtype,))
        yield require_shape(name, tensor, tuple(gamma.shape), "the shape of gamma")
    alone = arguments["zero_points2"] is not None and arguments["scales2"] is None
    yield not alone, "zero_points2 is given without scales2"
    yield arguments["axis"] == -1, f"axis is {arguments['axis']} but only -1 is supported"
    code = arguments["dst_type"]
    yield code is None or code in INT8_CODES, f"dst_type {code} is not int8"


def add_rms_norm_dynamic_quant_limits(arguments: Arguments, soc: str) -> Conditions:
    """2 to 8 dims; gamma, beta and the smooth scales are 1-D and of the dtype of x."""
    x1, gamma = arguments["x1"], arguments["gamma"]
    yield from pair_limits(arguments, HALVES)
    yield 2 <= x1.dim() <= 8, f"x1 has {x1.dim()} dims but must have 2 to 8"
    yield gamma.dim() == 1, f"gamma has {gamma.dim()} dims but must have 1"
    for name in ("smooth_scale1", "smooth_scale2", "beta"):
        tensor = arguments[name]
        if tensor is None:
            continue
        yield require_dtype(name, tensor, (x1.dtype,))
        yield require_shape(name, tensor, tuple(gamma.shape), "the shape of gamma")
    mask = arguments["output_mask"]
    alone = (
        not mask and arguments["smooth_scale2"] is not None and arguments["smooth_scale1"] is None
    )
    yield not alone, "smooth_scale2 is given without smooth_scale1 and without an output_mask"
    yield not mask or any(mask), "output_mask asks for neither y1 nor y2"
    code = arguments["y_dtype"]
    yield code is None or code in INT8_CODES, f"y_dtype {code} is not int8"


def rms_norm_quant_limits(arguments: Arguments, soc: str) -> Conditions:
    """One scale and one int8 offset for the whole tensor; the scale multiplies."""
    x, gamma = arguments["x"], arguments["gamma"]
    yield require_dtype("x", x, HALVES)
    yield from gain_limits(x, gamma)
    for name in ("gamma", "beta", "scale"):
        yield require_dtype(name, arguments[name], (x.dtype,))
    yield require_shape("beta", arguments["beta"], tuple(gamma.shape), "the shape of gamma")
    yield require_shape("scale", arguments["scale"], (1,), "one element")
    yield require_dtype("offset", arguments["offset"], (torch.int8,))
    yield require_shape("offset", arguments["offset"], (1,), "one element")
    code = arguments["dst_dtype"]
    yield code is None or code in INT8_CODES, f"dst_dtype {code} is not int8"


def rms_norm_quant_v2_limits(arguments: Arguments, soc: str) -> Conditions:
    """Scale and offset of one element or of the shape of gamma."""
    x, gamma, scale = arguments["x"], arguments["gamma"], arguments["scale"]
    yield require_dtype("x", x, FLOATS)
    yield require_dtype("gamma", gamma, (x.dtype,))
    yield gamma.dim() == 1, f"gamma has {gamma.dim()} dims but must have 1"
    yield from gain_limits(x, gamma)
    yield require_dtype("scale", scale, (x.dtype, torch.float32))
    size = scale.shape[0] if scale.dim() == 1 else 0
    whole = require(size == 1, "")[0] or require(size == gamma.shape[-1], "")[0]
    yield whole, f"scale has shape {list(scale.shape)} but must be one element or like gamma"
    for name, dtypes in (
        ("offset", (torch.int8, torch.int32, x.dtype, torch.float32)),
        ("beta", (x.dtype,)),
    ):
        tensor = arguments[name]
        if tensor is None:
            continue
        wanted, meaning = (scale, "scale") if name == "offset" else (gamma, "gamma")
        yield require_dtype(name, tensor, dtypes)
        yield require_shape(name, tensor, tuple(wanted.shape), f"the shape of {meaning}")
    code = arguments["dst_dtype"]
    yield code is None or code in INT8_CODES, f"dst_dtype {code} is not int8"
