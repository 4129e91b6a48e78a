"""Operators that models for the NPU call by name, and torch.ao's for quantized models."""

from __future__ import annotations

import importlib

from tests.fuzz.draw import Draw, Nothing
from tests.fuzz.vocabulary.norms import rms_norm_of
from tests.fuzz.vocabulary.quantize import quantized_rows, weight_of

importlib.import_module("torch.ao.quantization.fx._decomposed")  # defines the operators
AO = "torch.ops.quantized_decomposed"
NPU = "torch.ops.npu"


def norm_then_quantize(draw: Draw) -> list[str]:
    """`npu_quantize` of a norm, by its scale or the reciprocal, with and without a zero point."""
    rows = draw.rows()
    if draw.chance(0.7):
        rows = draw.emit("residual", "{r0} = {0} + {1}", rows, draw.like(rows))[0]
    norm, width = rms_norm_of(draw, rows), draw.fixed(rows)
    if draw.chance(0.3):
        norm = draw.emit("norm_bias", "{r0} = {0} + {1}", norm, draw.parameter((width,), "small"))[
            0
        ]
    divide, half = draw.chance(0.5), draw.dtype == "bfloat16"
    kind = "DT" if half or not divide else "WIDE"
    shape = draw.one_of((1,), (width,))
    found = []
    for _ in range(draw.one_of(1, 1, 2)):
        scale = draw.parameter(shape, "scale" if divide else "gain", kind)
        if draw.chance(0.7):
            text = f"{{r0}} = {NPU}.npu_quantize({{0}}, {{1}}, None, 1, -1, {divide})"
            found.append(draw.emit("npu_quantize", text, norm, scale)[0])
            continue
        zero = draw.parameter(shape, "zero_point", "int32" if kind == "WIDE" else kind)
        text = f"{{r0}} = {NPU}.npu_quantize({{0}}, {{1}}, {{2}}, 1, -1, {divide})"
        found.append(draw.emit("npu_quantize", text, norm, scale, zero)[0])
    return found


def add_norm_quantize(draw: Draw) -> list[str]:
    """Every form of `npu_add_rms_norm_quant`: divided or multiplied, one scale or two, a bias, zero
    points, in the dtypes that the operator takes on A2 and A3."""
    half = draw.dtype == "float16"
    if not half and draw.dtype != "bfloat16":
        raise Nothing  # float32 rows are quantized in several operators
    rows = draw.rows()
    width, other = draw.fixed(rows), draw.like(rows)
    total = draw.emit("residual", "{r0} = {0} + {1}", rows, other)[0]
    gain = draw.parameter((width,), "gain")
    text = draw.one_of(
        f"{{r0}} = F.rms_norm({{0}}, ({width},), {{1}}, 1e-6)",
        f"{{r0}} = {NPU}.npu_rms_norm({{0}}, {{1}}, 1e-5)[0]",
    )
    norm = draw.emit("rms_norm", text, total, gain)[0]
    if draw.chance(0.4):
        bias = draw.parameter((width,), "small")
        norm = draw.emit("norm_bias", "{r0} = {0} + {1}", norm, bias)[0]
    divide, shape = draw.chance(0.5), draw.one_of((1,), (width,))
    wide = half and divide
    zeros = [] if draw.chance(0.6) else ["int32" if wide else "DT"]
    found = []
    for _ in range(draw.one_of(1, 1, 2)):
        given = [draw.parameter(shape, "scale" if divide else "gain", "WIDE" if wide else "DT")]
        given += [draw.parameter(shape, "zero_point", kind) for kind in zeros]
        zero = "{2}" if zeros else "None"
        text = f"{{r0}} = {NPU}.npu_quantize({{0}}, {{1}}, {zero}, 1, -1, {divide})"
        found += draw.emit("npu_quantize", text, norm, *given)
    return found


def norm_then_dynamic_quantize(draw: Draw) -> list[str]:
    """`npu_dynamic_quant` of a sum's norm, with and without a smoothing scale and a bias."""
    rows = draw.rows()
    rows = draw.emit("residual", "{r0} = {0} + {1}", rows, draw.like(rows))[0]
    norm, width = rms_norm_of(draw, rows), draw.fixed(rows)
    if draw.chance(0.4):
        norm = draw.emit("norm_bias", "{r0} = {0} + {1}", norm, draw.parameter((width,), "small"))[
            0
        ]
    if draw.chance(0.5):
        smooth = draw.parameter((width,), "gain")
        text = f"{{r0}}, {{r1}} = {NPU}.npu_dynamic_quant({{0}}, smooth_scales={{1}})"
        return draw.emit("npu_dynamic_quant", text, norm, smooth, results=2)
    text = f"{{r0}}, {{r1}} = {NPU}.npu_dynamic_quant({{0}})"
    return draw.emit("npu_dynamic_quant", text, norm, results=2)


def operator(draw: Draw) -> object:
    """One operator of the NPU by name."""
    rows = draw.rows()
    width = draw.fixed(rows)
    which = draw.one_of("rms_norm", "add_rms_norm", "swiglu", "rotary")
    if which == "rms_norm":
        gain = draw.parameter((width,), "gain")
        text = f"{{r0}} = {NPU}.npu_rms_norm({{0}}, {{1}}, 1e-6)[0]"
        return draw.emit("npu_rms_norm", text, rows, gain)
    if which == "add_rms_norm":
        gain = draw.parameter((width,), "gain")
        text = f"{{r0}}, _, {{r1}} = {NPU}.npu_add_rms_norm({{0}}, {{1}}, {{2}}, 1e-5)"
        return draw.emit("npu_add_rms_norm", text, rows, draw.like(rows), gain, results=2)
    if which == "swiglu":
        return draw.emit("npu_swiglu", f"{{r0}} = {NPU}.npu_swiglu({{0}}, -1)", rows)
    heads = draw.pick(lambda t: t.dtype == draw.worlds[0]["DT"] and t.dim() == 4)
    text = f"{{r0}} = {NPU}.npu_rotary_mul({{0}}, {{1}}, {{2}}, 'half')"
    return draw.emit("npu_rotary_mul", text, heads, draw.like(heads), draw.like(heads))


def mrope(draw: Draw) -> list[str]:
    """Rope of two layers that look up one table inside the operator."""
    size = draw.one_of(32, 64)
    query = draw.give("input", ("S", 2 * size), "normal")
    key = draw.give("input", ("S", size), "normal")
    positions = draw.give("input", ("S",), "index", "int64")
    table = draw.parameter((4, size), "cos_sin")
    found = []
    for _ in range(2):
        text = (
            f"{{r0}}, {{r1}} = {NPU}.npu_mrope({{0}}, {{1}}, {{2}}, {{3}}, {size}, rotary_mode="
            f"{draw.one_of('half', 'half', 'interleave')!r})"
        )
        found = draw.emit("npu_mrope", text, positions, query, key, table, results=2)
    return found


def ao_static(draw: Draw) -> str:
    """torch.ao's static quantize and read back, and a matmul of an int8 weight."""
    rows = quantized_rows(draw)
    if draw.dtype != "bfloat16":
        raise Nothing  # the operators read back in bfloat16 or float32
    zero = draw.one_of(0, 0, 3)
    scale = draw.one_of(0.02, 0.03125)
    given = f"{scale}, {zero}, -128, 127, torch.int8"
    text = (
        f"{{r0}}_q = {AO}.quantize_per_tensor({{0}}, {given})\n"
        f"{{r0}} = {AO}.dequantize_per_tensor({{r0}}_q, {given}, out_dtype=DT)"
    )
    return ao_matmul(draw, draw.emit("ao_quantize_static", text, rows)[0])


def ao_dynamic(draw: Draw) -> str:
    """torch.ao's quantize by each row's largest value, and a matmul of an int8 weight."""
    rows = quantized_rows(draw)
    text = (
        f"{{r0}}_s, {{r0}}_z = {AO}.choose_qparams_per_token({{0}}, torch.int8)\n"
        f"{{r0}}_q = {AO}.quantize_per_token({{0}}, {{r0}}_s, {{r0}}_z, -128, 127, torch.int8)\n"
        f"{{r0}} = {AO}.dequantize_per_token("
        "{r0}_q, {r0}_s, {r0}_z, -128, 127, torch.int8, DT)"
    )
    return ao_matmul(draw, draw.emit("ao_quantize_dynamic", text, rows)[0])


def ao_matmul(draw: Draw, rows: str) -> str:
    """Rows times an int8 weight that torch.ao reads back."""
    if draw.chance(0.3):
        return rows
    inner = draw.fixed(rows)
    weight, _, _ = weight_of(draw, inner)
    width = draw.shape(weight)[0]
    scales = draw.parameter((width,), "scale", "WIDE")
    zeros = draw.parameter((width,), draw.one_of("zeros", "zeros", "zero_point"), "int64")
    read = (
        f"{{r0}}_w = {AO}.dequantize_per_channel("
        "{1}, {2}, {3}, 0, -128, 127, torch.int8, out_dtype=DT)\n"
    )
    if draw.chance(0.3):
        bias = draw.parameter((width,), "small")
        text = read + "{r0} = F.linear({0}, {r0}_w, {4}) * 0.0625"
        return draw.emit("ao_matmul", text, rows, weight, scales, zeros, bias)[0]
    text = read + "{r0} = F.linear({0}, {r0}_w) * 0.0625"
    return draw.emit("ao_matmul", text, rows, weight, scales, zeros)[0]


OPERATORS = {
    norm_then_quantize: 1.0,
    add_norm_quantize: 2.0,
    norm_then_dynamic_quantize: 1.0,
    operator: 1.0,
    mrope: 0.4,
    ao_static: 0.8,
    ao_dynamic: 0.6,
}
