"""Gates and activations."""

from __future__ import annotations

from tests.fuzz.draw import Draw, Nothing
from tests.fuzz.vocabulary.linear import linear_of

SILU = ("F.silu({0})", "F.silu({0})", "{0} * torch.sigmoid({0})")
GELU = ("F.gelu({0})", "F.gelu({0}, approximate='tanh')")
HALVES = (
    "{r0}_g, {r0}_u = {0}.chunk(2, -1)\n",
    "{r0}_g, {r0}_u = torch.split({0}, {0}.shape[-1] // 2, -1)\n",
    "{r0}_h = {0}.shape[-1] // 2\n{r0}_g, {r0}_u = {0}[..., :{r0}_h], {0}[..., {r0}_h:]\n",
)


def packed(draw: Draw) -> str:
    """A gate of both halves of a row."""
    rows = draw.rows()
    if draw.fixed(rows) % 2:
        raise Nothing
    gate = draw.one_of(*SILU, *SILU, *GELU, "torch.sigmoid({0})").replace("{0}", "{r0}_g")
    product = draw.one_of(f"{{r0}} = {gate} * {{r0}}_u", f"{{r0}} = {{r0}}_u * {gate}")
    return draw.emit("packed_gate", draw.one_of(*HALVES) + product, rows)[0]


def unpacked(draw: Draw) -> str:
    """A gate of two rows, perhaps of the same one twice."""
    gate_row = draw.rows()
    gate = draw.one_of(*SILU, *SILU, *GELU, "torch.sigmoid({0})")
    text = draw.one_of(f"{{r0}} = {gate} * {{1}}", f"{{r0}} = {{1}} * {gate}")
    return draw.emit("gate", text, gate_row, draw.like(gate_row))[0]


def mlp(draw: Draw) -> str:
    """Gate, up and down projections and the residual add."""
    rows = draw.rows()
    width = draw.fixed(rows)
    inner = draw.one_of(draw.width, 2 * draw.width)
    if draw.chance(0.5):
        both = linear_of(draw, rows, 2 * inner)
        text = draw.one_of(*HALVES) + "{r0} = F.silu({r0}_g) * {r0}_u"
        middle = draw.emit("packed_gate", text, both)[0]
    else:
        gate, up = linear_of(draw, rows, inner), linear_of(draw, rows, inner)
        middle = draw.emit("gate", "{r0} = F.silu({0}) * {1}", gate, up)[0]
    down = linear_of(draw, middle, width)
    return draw.emit("residual", draw.one_of("{r0} = {0} + {1}", "{r0} = {1} + {0}"), rows, down)[0]


def activation(draw: Draw) -> str:
    """One activation."""
    text = draw.one_of(*SILU, *GELU, "torch.relu({0})", "torch.tanh({0})")
    return draw.emit("activation", "{r0} = " + text, draw.rows(1, 4))[0]


OPERATORS = {packed: 2.0, unpacked: 2.0, mlp: 2.0, activation: 0.7}
