"""Attention without a cache."""

from __future__ import annotations

from tests.fuzz.draw import Draw
from tests.fuzz.vocabulary.caches import rows_of_calls
from tests.fuzz.vocabulary.linear import linear_of
from tests.fuzz.vocabulary.norms import rms_norm_of
from tests.fuzz.vocabulary.rope import heads_of, rotation, tables

MASKS = (
    ("", ""),
    ("mask", "{r0}_p = {r0}_p.masked_fill(~{3}, -10000.0)\n"),
    ("mask", "{r0}_p = torch.where({3}, {r0}_p, torch.finfo({r0}_p.dtype).min)\n"),
    ("mask", "{r0}_p = {r0}_p.masked_fill({3}.logical_not(), float('-inf'))\n"),
)


def block(draw: Draw) -> str:
    """Attention of rows: norms of heads, rope, softmax, the output's projection, the add."""
    rows = rows_of_calls(draw)
    width, count, size = draw.fixed(rows), draw.one_of(1, 2), draw.one_of(4, 16, 64)
    source = rms_norm_of(draw, rows) if draw.chance(0.7) else rows
    first = draw.chance(0.7)
    query, key, value = (heads_of(draw, source, count, size, first) for _ in range(3))
    if draw.chance(0.3):
        query, key = rms_norm_of(draw, query), rms_norm_of(draw, key)
    if draw.chance(0.7):
        style = draw.one_of("half", "half", "interleave")
        cos, sin = tables(draw, size, style)
        place = 1 if first else 2
        query, key = (rotation(draw, one, cos, sin, style, place) for one in (query, key))
    attended = weighted(draw, query, key, value, first)
    text = f"{{r0}} = {{0}}.transpose(1, 2).reshape({{0}}.shape[0], {{0}}.shape[2], {count * size})"
    joined = draw.emit("heads_joined", text, attended)[0]
    out = linear_of(draw, joined, width)
    return draw.emit("residual", draw.one_of("{r0} = {0} + {1}", "{r0} = {1} + {0}"), rows, out)[0]


def weighted(draw: Draw, query: str, key: str, value: str, first: bool) -> str:
    """Values weighted by the softmax of queries times keys, heads first."""
    turn = "" if first else ".transpose(1, 2)"
    names = {"q": f"{{0}}{turn}", "k": f"{{1}}{turn}", "v": f"{{2}}{turn}"}
    head = "".join(f"{{r0}}_{name} = {text}\n" for name, text in names.items())
    if draw.chance(0.4):
        text = (
            head + "{r0} = F.scaled_dot_product_attention({r0}_q, {r0}_k, {r0}_v, is_causal=True)"
        )
        return draw.emit("attention", text, query, key, value)[0]
    kind, line = draw.one_of(*MASKS)
    more = [draw.give("input", (1, 1, "S", "S"), "mask", "bool")] if kind else []
    text = (
        head
        + "{r0}_p = {r0}_q @ {r0}_k.transpose(-1, -2) * 0.125\n"
        + line
        + draw.one_of(
            "{r0} = torch.softmax({r0}_p, -1, dtype=WIDE).to(DT) @ {r0}_v",
            "{r0} = F.softmax({r0}_p, dim=-1) @ {r0}_v",
        )
    )
    return draw.emit("attention", text, query, key, value, *more)[0]


OPERATORS = {block: 2.5}
