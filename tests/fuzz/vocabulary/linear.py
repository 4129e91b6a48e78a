"""Linear layers and tables."""

from __future__ import annotations

from tests.fuzz.draw import Draw, Nothing

MOST_COLUMNS = 256
PRODUCTS = (
    "{r0} = F.linear({0}, {1})",
    "{r0} = {0} @ {1}.t()",
    "{r0} = torch.matmul({0}, {1}.transpose(0, 1))",
)


def linear_of(draw: Draw, rows: str, width: int | None = None) -> str:
    """A projection of these rows."""
    inner = draw.fixed(rows)
    width = width or draw.one_of(inner, draw.width, draw.width, 2 * draw.width)
    if width > MOST_COLUMNS or inner == 0:
        raise Nothing
    weight = draw.parameter((width, inner), "weight")
    if draw.chance(0.3):
        bias = draw.parameter((width,), "small")
        return draw.emit("linear", "{r0} = F.linear({0}, {1}, {2})", rows, weight, bias)[0]
    text = draw.one_of(*PRODUCTS)
    return draw.emit("linear", text, rows, weight)[0]


def linear(draw: Draw) -> str:
    """A projection of any rows."""
    return linear_of(draw, draw.rows())


def two_linears(draw: Draw) -> list[str]:
    """Two projections of the same rows, perhaps by equal or by one weight."""
    rows = draw.rows()
    width = draw.one_of(draw.width, 2 * draw.width)
    return [linear_of(draw, rows, width), linear_of(draw, rows, width)]


def embedding(draw: Draw) -> str:
    """A lookup of token embeddings."""
    text = "{r0} = F.embedding({0}, {1})"
    ids = draw.give("input", draw.one_of(("B", "S"), ("S",)), "index", "int64")
    return draw.emit("embedding", text, ids, draw.parameter((4, draw.width), "normal"))[0]


OPERATORS = {linear: 3.0, two_linears: 1.0, embedding: 0.4}
