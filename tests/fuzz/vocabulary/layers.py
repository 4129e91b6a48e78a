"""Pieces of whole layers, for what acts on the order of matmuls or on tables of several layers."""

from __future__ import annotations

from tests.fuzz.draw import Draw, Nothing
from tests.fuzz.vocabulary.gates import HALVES, SILU
from tests.fuzz.vocabulary.linear import linear_of
from tests.fuzz.vocabulary.norms import rms_norm_of
from tests.fuzz.vocabulary.quantize import fake_dynamic, fake_static, matmul_of
from tests.fuzz.vocabulary.rope import POSITIONS, heads_of, rotation


def second_half(draw: Draw) -> str:
    """The output projection of attention, the residual add, the norm and the MLP, float or W8A8."""
    rows = draw.rows()
    width = draw.fixed(rows)
    attended = linear_of(draw, rows, width)
    total = draw.emit("residual", "{r0} = {0} + {1}", attended, draw.like(attended))[0]
    norm = rms_norm_of(draw, total)
    quantize = draw.one_of(None, None, fake_static, fake_dynamic)
    down = mlp_of(draw, norm if quantize is None else quantize(draw, norm), quantize)
    if draw.value(down).shape != draw.value(total).shape:
        return down
    return draw.emit("residual", "{r0} = {0} + {1}", total, down)[0]


def mlp_of(draw: Draw, rows: str, quantize: object) -> str:
    """Gate and up in one matmul or in two, the activation, and down."""
    silu = draw.one_of(*SILU).replace("{0}", "{r0}_g")
    product = draw.one_of(f"{{r0}} = {silu} * {{r0}}_u", f"{{r0}} = {{r0}}_u * {silu}")
    if quantize is not None:
        both = matmul_of(draw, rows)
    else:
        both = linear_of(draw, rows, 2 * draw.one_of(draw.width, 2 * draw.width))
    if draw.fixed(both) % 2:
        raise Nothing
    middle = draw.emit("packed_gate", draw.one_of(*HALVES) + product, both)[0]
    if quantize is not None:
        return matmul_of(draw, fake_dynamic(draw, middle))
    return linear_of(draw, middle, draw.fixed(rows))


def layers_of_tables(draw: Draw) -> list[str]:
    """Rotations of two layers in a row, each with a table of its own whose content is equal."""
    rows = draw.pick(
        lambda t: (
            t.dtype == draw.worlds[0]["DT"]
            and t.dim() == 3
            and tuple(t.shape[:2]) == (draw.sizes[0]["B"], draw.sizes[0]["S"])
        )
    )
    size = draw.one_of(2, 8, 64)
    positions = draw.give("input", ("B", "S"), draw.one_of("places", "index"), "int64")
    rows_of = f"{{1}}.index_select(0, {{0}}.flatten()).view(*{{0}}.shape, {size})"
    lookup = draw.one_of("{1}[{0}]", rows_of)
    role, shape = draw.one_of("parameter", "buffer"), (POSITIONS, size)
    first = draw.give(role, shape, "cos_sin")
    second = draw.give(role, shape, "cos_sin", equal=first.removeprefix("self."))
    found = []
    for table in (first, second):
        text = (
            f"{{r0}}_h, {{r1}}_h = {lookup}.chunk(2, -1)\n"
            "{r0}, {r1} = torch.cat([{r0}_h, {r0}_h], -1), torch.cat([{r1}_h, {r1}_h], -1)"
        )
        cos, sin = draw.emit("rope_lookup", text, positions, table, results=2)
        count = draw.one_of(1, 2)
        heads = heads_of(draw, rows, count, size, True)
        found.append(rotation(draw, heads, cos, sin, "half", 1))
        shape = f"{{0}}.shape[0], {{0}}.shape[2], {count * size}"
        flat = f"{{r0}} = {{0}}.transpose(1, 2).reshape({shape})"
        rows = draw.emit("heads_joined", flat, found[-1])[0]
    return [*found, rows]


OPERATORS = {second_half: 2.5, layers_of_tables: 1.0}
