"""Static and dynamic int8 rows, and matmuls of them."""

from __future__ import annotations

from tests.fuzz.draw import Draw, Nothing
from tests.fuzz.vocabulary.norms import rms_norm_of

STATIC = (
    "torch.round(torch.clamp({0} / {1}, -128.0, 127.0))",
    "torch.round(torch.clamp({0} / {1}, -128.0, 127.0))",
    "torch.clamp(torch.round({0} / {1}), -128, 127)",
    "({0} / {1}).clamp(-128, 127).round()",
)
DYNAMIC = (
    "{r0}_s = {0}.to(WIDE).abs().amax(-1, keepdim=True) / 127\n"
    "{r0}_s = torch.where({r0}_s == 0, 1.0, {r0}_s)\n"
    "{r0}_q = torch.round(torch.clamp({0} / {r0}_s, -128.0, 127.0))\n"
)


def quantized_rows(draw: Draw) -> str:
    """Rows, often normalised just before."""
    rows = draw.rows()
    return rms_norm_of(draw, rows) if draw.chance(0.6) else rows


def scale_of(draw: Draw) -> str:
    """The stored scale of a static quantize."""
    return draw.parameter((1,), "scale")


def fake_static(draw: Draw, rows: str) -> str:
    """Rows quantized with a stored scale and read back."""
    text = f"{{r0}} = {draw.one_of(*STATIC)} * {{1}}"
    return draw.emit("quantize_static", text, rows, scale_of(draw))[0]


def fake_dynamic(draw: Draw, rows: str) -> str:
    """Rows quantized by their largest value and read back."""
    return draw.emit("quantize_dynamic", DYNAMIC + "{r0} = ({r0}_q * {r0}_s).to({0}.dtype)", rows)[
        0
    ]


def static(draw: Draw) -> str:
    """A static quantize of any rows."""
    return fake_static(draw, quantized_rows(draw))


def dynamic(draw: Draw) -> str:
    """A dynamic quantize of any rows."""
    return fake_dynamic(draw, quantized_rows(draw))


def integers(draw: Draw) -> str:
    """int8 rows as a value of their own."""
    text = f"{{r0}} = {draw.one_of(*STATIC)}.to(torch.int8)"
    return draw.emit("quantize_int8", text, quantized_rows(draw), scale_of(draw))[0]


def integers_with_zero_point(draw: Draw) -> str:
    """int8 rows with a zero point, read back."""
    zero = draw.parameter((1,), "zero_point", "int8")
    text = (
        "{r0}_q = torch.clamp(torch.round({0} / {1}) + {2}, -128, 127).to(torch.int8)\n"
        "{r0} = ({r0}_q.to(DT) - {2}) * {1}"
    )
    read = draw.emit("quantize_offset", text, quantized_rows(draw), scale_of(draw), zero)[0]
    return matmul_of(draw, read) if draw.chance(0.6) else read


def weight_of(draw: Draw, inner: int) -> tuple[str, str, str]:
    """An int8 weight, its scales, and the text that reads it back from {1} and {2}."""
    width = draw.one_of(inner, draw.width, 2 * draw.width)
    if inner < 1 or width > 256:
        raise Nothing
    weight = draw.parameter((width, inner), "int8", "int8")
    if draw.chance(0.7):
        return weight, draw.parameter((width, 1), "scale"), "({1}.to({2}.dtype) * {2})"
    return weight, draw.parameter((width, 1), "scale", "WIDE"), "({1}.to(WIDE) * {2}).to({0}.dtype)"


def matmul_of(draw: Draw, rows: str) -> str:
    """An int8 weight read back, times rows."""
    weight, scales, factor = weight_of(draw, draw.fixed(rows))
    if draw.chance(0.35):
        bias = draw.parameter((draw.shape(weight)[0],), "small")
        text = f"{{r0}} = F.linear({{0}}, {factor}, {{3}}) * 0.0625"
        return draw.emit("quant_matmul", text, rows, weight, scales, bias)[0]
    text = draw.one_of(f"{{r0}} = F.linear({{0}}, {factor})", f"{{r0}} = {{0}} @ {factor}.t()")
    return draw.emit("quant_matmul", text + " * 0.0625", rows, weight, scales)[0]


def static_matmul(draw: Draw) -> str:
    """W8A8 with a stored scale."""
    return matmul_of(draw, fake_static(draw, quantized_rows(draw)))


def dynamic_matmul(draw: Draw) -> str:
    """W8A8 with a scale for each row."""
    return matmul_of(draw, fake_dynamic(draw, quantized_rows(draw)))


def add_norm_quantize(draw: Draw) -> list[str]:
    """The chain of a decoder block: add, norm, one or two quantizes, matmuls."""
    rows = draw.rows()
    total = draw.emit("residual", "{r0} = {0} + {1}", rows, draw.like(rows))[0]
    norm = rms_norm_of(draw, total)
    if draw.chance(0.2):
        bias = draw.parameter((draw.fixed(norm),), "small")
        norm = draw.emit("norm_bias", "{r0} = {0} + {1}", norm, bias)[0]
    quantize = draw.one_of(fake_static, fake_dynamic)
    found = [quantize(draw, norm) for _ in range(draw.one_of(1, 1, 2))]
    return [matmul_of(draw, one) if draw.chance(0.7) else one for one in found]


def swiglu_quantize(draw: Draw) -> str:
    """SwiGLU and a quantize of it."""
    rows = draw.rows()
    if draw.fixed(rows) % 2:
        raise Nothing
    text = "{r0}_g, {r0}_u = {0}.chunk(2, -1)\n{r0} = F.silu({r0}_g) * {r0}_u"
    gated = draw.emit("packed_gate", text, rows)[0]
    return draw.one_of(fake_static, fake_dynamic, fake_dynamic)(draw, gated)


OPERATORS = {
    static: 1.0,
    dynamic: 1.0,
    integers: 0.7,
    integers_with_zero_point: 0.5,
    static_matmul: 2.0,
    dynamic_matmul: 2.0,
    add_norm_quantize: 3.0,
    swiglu_quantize: 1.0,
}
