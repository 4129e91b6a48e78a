"""Views, splits and joins."""

from __future__ import annotations

from tests.fuzz.draw import Draw, Nothing

VIEWS = (
    "{0}.transpose(-1, -2)",
    "{0}.transpose(0, 1)",
    "{0}.flatten(0, 1)",
    "{0}.flatten()",
    "{0}.unsqueeze(0)",
    "{0}.unsqueeze(1)",
    "{0}.unsqueeze(-1)",
    "{0}.squeeze(0)",
    "{0}.squeeze()",
    "{0}.squeeze(-1)",
    "{0}[0]",
    "{0}[:, -1]",
    "{0}[..., 0]",
    "{0}[:, :1]",
    "{0}[..., 1:]",
    "{0}[:-1]",
    "{0}[:-15]",
    "{0}[..., -15:-1]",
    "{0}[..., ::2]",
    "{0}[1:, ...]",
    "{0}[None]",
    "{0}.narrow(-1, 0, 1)",
    "{0}.view({0}.shape)",
    "{0}.view(-1)",
    "{0}.view({0}.shape[0], -1)",
    "{0}.reshape(-1, {0}.shape[-1])",
    "{0}.reshape({0}.shape[0], {0}.shape[1], -1)",
    "{0}.view_as({0})",
    "{0}.expand(2, *{0}.shape)",
    "{0}.mT",
    "{0}.movedim(0, -1)",
    "{0}.flip(-1)",
    "{0}.repeat_interleave(2, -1)",
    "{0}.repeat(2, *[1] * ({0}.dim() - 1))",
    "{0}.swapaxes(0, -1)",
)
JOINS = (
    "torch.cat([{0}, {1}], -1)",
    "torch.cat([{0}, {1}], 0)",
    "torch.stack([{0}, {1}])",
    "torch.stack([{0}, {1}], -1)",
    "torch.cat([{1}, {0}, {1}], -1)",
    "torch.cat([{0}], -1)",
)
PARTS = (
    "{r0}, {r1} = {0}.chunk(2, -1)",
    "{r0}, {r1} = torch.split({0}, {0}.shape[-1] // 2, -1)",
    "{r0}, {r1} = {0}.tensor_split(2, -1)",
    "{r0}, {r1} = {0}[..., : {0}.shape[-1] // 2], {0}[..., {0}.shape[-1] // 2 :]",
    "{r0}, {r1} = torch.cat([{0}, {0}], -1).chunk(2, -1)",
    "{r0}, {r1} = torch.stack([{0}, {0}]).unbind(0)",
    "{r0}, {r1} = {0}, {0}.view({0}.shape)",
    "{r0}, {r1} = {0}.split([1, {0}.shape[-1] - 1], -1)",
)


def view(draw: Draw) -> str:
    """A view, or a copy that looks like one."""
    target = draw.pick(lambda t: t.dim() > 0)
    return draw.emit("view", "{r0} = " + draw.one_of(*VIEWS), target)[0]


def permute(draw: Draw) -> str:
    """Dims in another order."""
    target = draw.pick(lambda t: t.dim() > 1)
    order = list(range(draw.value(target).dim()))
    draw.random.shuffle(order)
    end = draw.one_of("", "", ".contiguous()", ".clone()")
    return draw.emit("view", f"{{r0}} = {{0}}.permute({', '.join(map(str, order))}){end}", target)[
        0
    ]


def join(draw: Draw) -> str:
    """Two become one."""
    first = draw.pick(lambda t: t.dim() > 0 and t.is_floating_point())
    return draw.emit("join", "{r0} = " + draw.one_of(*JOINS), first, draw.like(first))[0]


def parts(draw: Draw) -> list[str]:
    """One becomes two."""
    target = draw.pick(lambda t: t.dim() > 0 and t.is_floating_point())
    return draw.emit("parts", draw.one_of(*PARTS), target, results=2)


def heads(draw: Draw) -> str:
    """Rows as heads."""
    rows = draw.rows(3, 3)
    width = draw.fixed(rows)
    choices = [n for n in (1, 2, 4) if width % n == 0 and width >= n]
    if not choices:
        raise Nothing
    count = draw.one_of(*choices)
    end = draw.one_of("", ".transpose(1, 2)", ".permute(0, 2, 1, 3)")
    text = f"{{r0}} = {{0}}.view({{0}}.shape[0], {{0}}.shape[1], {count}, {width // count}){end}"
    return draw.emit("heads", text, rows)[0]


OPERATORS = {view: 2.5, permute: 0.8, join: 1.0, parts: 1.2, heads: 1.2}
