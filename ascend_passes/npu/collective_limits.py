"""The documented limits of the matmuls fused with a collective."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ascend_passes.distributed.groups import FUNCTIONAL, resolve
from ascend_passes.npu.operator import (
    A2,
    A3,
    HALVES,
    Arguments,
    Conditions,
    require,
    require_absent,
    require_dtype,
    require_shape,
    require_soc,
)

DEPTH_LOW, DEPTH_HIGH = 256, 65535
"""K of a matmul with a reduce-scatter or a gather is in [256, 65535)."""
VECTOR_MODE = "aiv"
"""The comm_mode whose communication runs on the vector cores; int8 needs it on A2 and A3."""
REDUCE_SCATTER_WORLDS = {A2: (2, 4, 8), A3: (2, 4, 8, 16, 32)}
QUANT_WORLDS = {A2: (2, 4, 8), A3: (2, 4, 8)}
ALL_REDUCE_WORLDS = {A2: (1, 2, 4, 8)}


def matrix_limits(x1: Tensor, x2: Tensor, windowed: bool = True) -> Conditions:
    """Matrices that fit, with K in the documented window."""
    flat = x2.dim() == 2 and (x1.dim() == 2 or not windowed)
    yield flat, f"the operands have {x1.dim()} and {x2.dim()} dims but must be matrices"
    if not flat:
        return
    depth = x2.shape[0]
    yield require(x1.shape[-1] == depth, f"the left K is {x1.shape[-1]} but the right K is {depth}")
    if windowed:
        reason = f"K = {depth} is outside [{DEPTH_LOW}, {DEPTH_HIGH})"
        yield require(depth >= DEPTH_LOW, reason)
        yield require(depth < DEPTH_HIGH, reason)


def world_limits(worlds: Mapping[str, tuple[int, ...]], soc: str, world_size: int) -> Conditions:
    """The chip is known, and the group has one of its sizes."""
    yield require_soc(soc, *worlds)
    for family, sizes in worlds.items():
        if soc.startswith(family):
            yield world_size in sizes, f"world size {world_size} is not one of {sizes} on {soc}"


def mm_all_reduce_base_limits(arguments: Arguments, soc: str) -> Conditions:
    """A2, groups of 1, 2, 4 or 8, sums; int8 operands need a dequantizing scale."""
    x1, x2, scale = (arguments[name] for name in ("x1", "x2", "dequant_scale"))
    group = resolve(arguments["hcom"], FUNCTIONAL)
    yield group is not None, f"the size of group {arguments['hcom']!r} is not known here"
    if group is not None:
        yield from world_limits(ALL_REDUCE_WORLDS, soc, group.size)
    yield require_dtype("x1", x1, (*HALVES, torch.int8))
    yield require_dtype("x2", x2, (x1.dtype,))
    yield x1.dim() in (2, 3), f"x1 has {x1.dim()} dims but must have 2 or 3"
    yield from matrix_limits(x1, x2, windowed=False)
    yield arguments["reduce_op"] == "sum", f"reduce_op is {arguments['reduce_op']!r}, not 'sum'"
    needed = (x1.dtype == torch.int8) == (scale is not None)
    yield needed, "dequant_scale goes with int8 operands, and only with them"
    for name in ("antiquant_scale", "antiquant_offset", "comm_quant_scale_1", "comm_quant_scale_2"):
        yield require_absent(
            name, arguments[name], "quantized weights and transport are not supported here"
        )
    yield arguments["comm_quant_mode"] == 0, "comm_quant_mode is not 0"
    yield arguments["group_sizes"] is None, "group_sizes is given but is for float8"
    pertoken, bias = arguments["pertoken_scale"], arguments["bias"]
    if pertoken is not None:
        yield require_dtype("pertoken_scale", pertoken, (torch.float32,))
        yield scale is not None, "pertoken_scale is given without dequant_scale"
    if bias is not None:
        wanted = torch.int32 if x1.dtype == torch.int8 else x1.dtype
        yield require_dtype("bias", bias, (wanted,))
        yield require_shape("bias", bias, (x2.shape[-1],), "the N of x2")


def mm_reduce_scatter_base_limits(arguments: Arguments, soc: str) -> Conditions:
    """Rows that divide by the group, no bias; int8 only with comm_mode aiv."""
    x1, x2, world = (arguments[name] for name in ("input", "x2", "world_size"))
    mode, scales = arguments["comm_mode"], (arguments["x1_scale"], arguments["x2_scale"])
    yield from world_limits(REDUCE_SCATTER_WORLDS, soc, world)
    yield from matrix_limits(x1, x2)
    yield require(
        x1.shape[0] % world == 0, f"M = {x1.shape[0]} does not divide by world size {world}"
    )
    yield from base_limits(x1, x2, mode, scales)
    yield require_absent("bias", arguments["bias"], "a nonzero bias is not supported")
    yield arguments["reduce_op"] == "sum", f"reduce_op is {arguments['reduce_op']!r}, not 'sum'"


def base_limits(
    x1: Tensor, x2: Tensor, mode: str | None, scales: tuple[Tensor | None, Tensor | None]
) -> Conditions:
    """dtypes and scales of the `_base` operators by comm_mode; the left side is not transposed."""
    integer = (torch.int8,) if mode == VECTOR_MODE else ()
    yield mode in (None, "ai_cpu", VECTOR_MODE), f"comm_mode is {mode!r}, not 'ai_cpu' or 'aiv'"
    yield require_dtype("input", x1, (*HALVES, *integer))
    yield require_dtype("x2", x2, (x1.dtype,))
    yield x1.is_contiguous(), "input is not contiguous; the operator does not take a transposed one"
    quantized = x1.dtype == torch.int8
    if not quantized:
        for name, scale in zip(("x1_scale", "x2_scale"), scales, strict=True):
            yield require_absent(name, scale, "belongs to int8 operands")
        return
    yield scales[1] is not None, "x2_scale is missing for int8 operands"
    yield from scale_shape_limits(x1, x2, *scales)


def scale_shape_limits(
    x1: Tensor, x2: Tensor, x1_scale: Tensor | None, x2_scale: Tensor | None
) -> Conditions:
    """x1_scale is float32 (M, 1), x2_scale float32 or int64 (1, N)."""
    if x1_scale is not None:
        yield require_dtype("x1_scale", x1_scale, (torch.float32,))
        yield require_shape("x1_scale", x1_scale, (x1.shape[0], 1), "(M, 1)")
    if x2_scale is not None:
        yield require_dtype("x2_scale", x2_scale, (torch.float32, torch.int64))
        yield require_shape("x2_scale", x2_scale, (1, x2.shape[-1]), "(1, N)")


def quant_limits(arguments: Arguments, soc: str) -> Conditions:
    """int8 operands over the vector cores, with both scales and a float16 or bfloat16 result."""
    x1, x2 = arguments["input"], arguments["x2"]
    x1_scale, x2_scale, mode = (arguments[name] for name in ("x1_scale", "x2_scale", "comm_mode"))
    yield from world_limits(QUANT_WORLDS, soc, arguments["world_size"])
    yield require_dtype("input", x1, (torch.int8,))
    yield require_dtype("x2", x2, (torch.int8,))
    yield from matrix_limits(x1, x2)
    yield mode == VECTOR_MODE, f"comm_mode is {mode!r} but int8 needs 'aiv'"
    yield (
        arguments["y_dtype"] in (5, 15),
        f"y_dtype is {arguments['y_dtype']}, not float16 or bfloat16",
    )
    yield x1_scale is not None and x2_scale is not None, "x1_scale and x2_scale are both needed"
    yield from scale_shape_limits(x1, x2, x1_scale, x2_scale)
    yield require_absent(
        "quant_scale", arguments["quant_scale"], "quantized results are not supported"
    )
    yield not arguments["amax_output"], "amax_output is asked for but not supported"
    yield x1.is_contiguous(), "input is not contiguous; the operator does not take a transposed one"


def quant_mm_reduce_scatter_limits(arguments: Arguments, soc: str) -> Conditions:
    """As every int8 one; rows divide by the group; a float bias."""
    x1, world, bias = (arguments[name] for name in ("input", "world_size", "bias"))
    yield from quant_limits(arguments, soc)
    yield require(
        x1.shape[0] % world == 0, f"M = {x1.shape[0]} does not divide by world size {world}"
    )
    yield arguments["reduce_op"] == "sum", f"reduce_op is {arguments['reduce_op']!r}, not 'sum'"
    if bias is not None:
        yield require_dtype("bias", bias, (*HALVES, torch.float32))


def all_gather_base_mm_limits(arguments: Arguments, soc: str) -> Conditions:
    """No bias; only the input is gathered; int8 only with comm_mode aiv."""
    x1, x2, mode = (arguments[name] for name in ("input", "x2", "comm_mode"))
    yield from world_limits(REDUCE_SCATTER_WORLDS, soc, arguments["world_size"])
    yield from matrix_limits(x1, x2)
    yield from base_limits(x1, x2, mode, (arguments["x1_scale"], arguments["x2_scale"]))
    yield require_absent("bias", arguments["bias"], "a nonzero bias is not supported")
    yield arguments["gather_index"] == 0, "gather_index is not 0; only the input can be gathered"


def all_gather_quant_mm_limits(arguments: Arguments, soc: str) -> Conditions:
    """As every int8 one; no bias; only the input is gathered."""
    yield from quant_limits(arguments, soc)
    yield require_absent("bias", arguments["bias"], "A2 and A3 take none here")
    yield arguments["gather_index"] == 0, "gather_index is not 0; only the input can be gathered"
