"""Rotary position embedding: tables of positions, and rotations of heads."""

from __future__ import annotations

from tests.fuzz.draw import Draw, Nothing
from tests.fuzz.vocabulary.linear import linear_of
from tests.fuzz.vocabulary.norms import rms_norm_of

POSITIONS = 32
ROTATED = {
    "half": (
        "torch.cat([-{0}[..., {0}.shape[-1] // 2 :], {0}[..., : {0}.shape[-1] // 2]], -1)",
        "torch.cat([-{0}.chunk(2, -1)[1], {0}.chunk(2, -1)[0]], -1)",
        "torch.cat((-1 * {0}[..., {0}.shape[-1] // 2 :], {0}[..., : {0}.shape[-1] // 2]), dim=-1)",
    ),
    "interleave": (
        "torch.stack([-{0}[..., 1::2], {0}[..., ::2]], -1).flatten(-2)",
        "torch.stack((-{0}[..., 1::2], {0}[..., ::2]), dim=-1).reshape({0}.shape)",
    ),
}


def tables(draw: Draw, head_size: int, style: str) -> tuple[str, str]:
    """Cosines and sines [B or 1, S, D]."""
    if head_size % 2:
        raise Nothing
    batch = draw.one_of("B", "B", 1)
    manner = draw.one_of("given", "positions", "cache")
    if manner == "given":
        shape = (batch, "S", head_size)
        return draw.give("input", shape, "angles"), draw.give("input", shape, "angles")
    positions = draw.give("input", (batch, "S"), draw.one_of("places", "index"), "int64")
    spread = "torch.cat([{x}, {x}], -1)" if style == "half" else "{x}.repeat_interleave(2, -1)"
    if manner == "positions":
        frequencies = draw.parameter((head_size // 2,), "angles", "WIDE")
        angles = spread.replace("{x}", "{r0}_a")
        text = (
            "{r0}_a = {0}[..., None].to(WIDE) * {1}\n"
            f"{{r0}}_e = {angles}\n"
            "{r0}, {r1} = {r0}_e.cos().to(DT), {r0}_e.sin().to(DT)"
        )
        found = draw.emit("rope_tables", text, positions, frequencies, results=2)
    else:
        table = draw.parameter((POSITIONS, head_size), "cos_sin")
        rows = f"{{1}}.index_select(0, {{0}}.flatten()).view(*{{0}}.shape, {head_size})"
        lookup = draw.one_of("{1}[{0}]", "F.embedding({0}, {1})", rows)
        parts = [spread.replace("{x}", f"{{r{i}}}_h") for i in (0, 1)]
        text = (
            f"{{r0}}_h, {{r1}}_h = {lookup}.chunk(2, -1)\n{{r0}}, {{r1}} = {parts[0]}, {parts[1]}"
        )
        found = draw.emit("rope_lookup", text, positions, table, results=2)
    return found[0], found[1]


def rotation(draw: Draw, heads: str, cos: str, sin: str, style: str, unsqueeze: int) -> str:
    """Heads times cosines plus rotated heads times sines."""
    turned = draw.one_of(*ROTATED[style])
    c, s = f"{{1}}.unsqueeze({unsqueeze})", f"{{2}}.unsqueeze({unsqueeze})"
    text = f"{{r0}} = ({{0}} * {c}) + ({turned} * {s})"
    return draw.emit(f"rope_{style}", text, heads, cos, sin)[0]


def heads_of(draw: Draw, rows: str, count: int, size: int, first: bool) -> str:
    """A projection of rows, as heads."""
    flat = linear_of(draw, rows, count * size)
    end = draw.one_of(".transpose(1, 2)", ".permute(0, 2, 1, 3)") if first else ""
    text = f"{{r0}} = {{0}}.view({{0}}.shape[0], {{0}}.shape[1], {count}, {size}){end}"
    return draw.emit("heads", text, flat)[0]


def rows_with_positions(draw: Draw) -> str:
    """Rows of each token of each sequence."""
    return draw.pick(
        lambda t: (
            t.dtype == draw.worlds[0]["DT"]
            and t.dim() == 3
            and tuple(t.shape[:2]) == (draw.sizes[0]["B"], draw.sizes[0]["S"])
        )
    )


def packed_heads(draw: Draw) -> list[str]:
    """Queries, keys and values of one projection; the first two normalized and rotated."""
    rows, size = rows_with_positions(draw), draw.one_of(16, 16, 32, 64)
    queries, keys = draw.one_of((1, 1), (2, 1), (2, 2), (4, 2))
    style, first = draw.one_of("half", "half", "half", "interleave"), draw.chance(0.5)
    cos, sin = tables(draw, size, style)
    flat = linear_of(draw, rows, (queries + 2 * keys) * size)
    widths = [queries * size, keys * size, keys * size]
    cut = f"{{r0}}, {{r1}}, {{r2}} = {{0}}.split({widths}, -1)"
    parts = draw.emit("packed_heads", cut, flat, results=3)
    end = ".transpose(1, 2)" if first else ""
    text = f"{{r0}} = {{0}}.unflatten(-1, (-1, {size})){end}"
    before = draw.chance(0.7)
    found, alike = [], draw.chance(0.8)
    state = draw.random.getstate()
    for part in parts[:2]:
        if alike:  # both in one spelling, as models have them
            draw.random.setstate(state)
        heads = draw.emit("heads", text if before else text.removesuffix(end), part)[0]
        heads = rms_norm_of(draw, heads) if draw.chance(0.9) else heads
        if first and not before:
            heads = draw.emit("heads_first", "{r0} = {0}.transpose(1, 2)", heads)[0]
        found.append(rotation(draw, heads, cos, sin, style, 1 if first else 2))
    # Of a value that nobody picks nothing is left, and then there is no pair.
    both = f"{{r0}} = torch.cat([{{0}}, {{1}}], {1 if first else 2})"
    return [*draw.emit("heads_beside", both, *found), parts[2]]


def rope(draw: Draw) -> list[str]:
    """Queries and keys of rows, rotated by tables of positions."""
    rows = rows_with_positions(draw)
    size = draw.one_of(2, 4, 8, 16, 64, 64, 64, 128)
    style, first = draw.one_of("half", "half", "interleave"), draw.chance(0.5)
    cos, sin = tables(draw, size, style)
    found = []
    for _ in range(draw.one_of(1, 2, 2)):
        heads = heads_of(draw, rows, draw.one_of(1, 2, 4), size, first)
        found.append(rotation(draw, heads, cos, sin, style, 1 if first else 2))
    return found


def rope_complex(draw: Draw) -> str:
    """A rotation by complex factors."""
    rows = draw.rows(3, 3)
    size = draw.one_of(2, 4, 16, 64)
    heads = heads_of(draw, rows, draw.one_of(1, 2), size, False)
    angles = draw.give("input", (draw.one_of("B", 1), "S", 1, size // 2), "angles", "WIDE")
    text = (
        "{r0}_f = torch.polar(torch.ones_like({1}), {1})\n"
        f"{{r0}}_p = {{0}}.to(WIDE).reshape(*{{0}}.shape[:-1], {size // 2}, 2)\n"
        "{r0} = torch.view_as_real(torch.view_as_complex({r0}_p) * {r0}_f)"
        ".flatten(-2).type_as({0})"
    )
    return draw.emit("rope_complex", text, heads, angles)[0]


def rope_of_any(draw: Draw) -> str:
    """A rotation of any four dims by tables that are given."""
    heads = draw.pick(lambda t: t.dtype == draw.worlds[0]["DT"] and t.dim() == 4)
    style = draw.one_of("half", "interleave")
    cos, sin = draw.like(heads), draw.like(heads)
    turned = draw.one_of(*ROTATED[style])
    text = f"{{r0}} = {{0}} * {{1}} + {turned} * {{2}}"
    return draw.emit(f"rope_{style}", text, heads, cos, sin)[0]


OPERATORS = {rope: 3.0, packed_heads: 1.5, rope_complex: 0.7, rope_of_any: 0.5}
