"""Sums and products, identities, casts, copies, masks."""

from __future__ import annotations

import torch

from tests.fuzz.draw import Draw, Nothing

IDENTITIES = (
    "{0} + 0",
    "{0} + 0.0",
    "0 + {0}",
    "{0} - 0",
    "{0} - 0.0",
    "{0} + -0.0",
    "{0} * 1",
    "1.0 * {0}",
    "{0} / 1",
    "0 * {0}",
    "{0} * 0.0",
    "{0} + torch.zeros_like({0})",
    "{0} * torch.ones_like({0})",
    "torch.zeros({0}.shape, dtype={0}.dtype) + {0}",
    "{0}.clone()",
    "{0}.detach()",
    "{0}.to({0}.dtype)",
    "{0}.to({0}.dtype, copy=True)",
    "{0}.contiguous()",
    "{0}.clone(memory_format=torch.contiguous_format)",
    "+{0}",
)
CASTS = (
    "{0}.to(WIDE)",
    "{0}.to(DT)",
    "{0}.to(WIDE).to(DT)",
    "{0}.to(DT).to(WIDE)",
    "{0}.type_as({0})",
    "{0}.to(WIDE, memory_format=torch.contiguous_format)",
)
FORMATS = (
    "{0}.to(WIDE, memory_format=torch.channels_last)",
    "{0}.to(DT, memory_format=torch.channels_last)",
    "{0}.contiguous(memory_format=torch.channels_last)",
    "{0}.clone(memory_format=torch.channels_last)",
    "{0}.clone(memory_format=torch.preserve_format)",
)
IN_PLACE = (
    "{r0} = {0}.add_({1})",
    "{0}.add_({1})\n{r0} = {0}",
    "{r0} = {0}\n{r0} += {1}",
    "{r0} = {0}.copy_({1})",
    "{r0} = {0}.mul_(0.5)",
    "{0}[..., :1] = 0\n{r0} = {0}",
    "{0}[:1].zero_()\n{r0} = {0}",
    "{r0} = {0}.sub_({1}, alpha=0.5)",
)


def is_float(tensor) -> bool:
    """Whether a tensor is a floating one."""
    return tensor.is_floating_point()


def residual(draw: Draw) -> str:
    """A sum or difference."""
    rows = draw.rows(1, 4)
    text = draw.one_of(
        "{0} + {1}",
        "{0} + {1}",
        "{1} + {0}",
        "torch.add({0}, {1}, alpha=0.5)",
        "{0} - {1}",
        "{0} * {1}",
        "({0} + {1}) * 0.5",
        "torch.lerp({0}, {1}, 0.25)",
    )
    return draw.emit("residual", "{r0} = " + text, rows, draw.like(rows))[0]


def in_place(draw: Draw) -> str:
    """A write into a value, an input or a view."""
    target = draw.rows(1, 4)
    return draw.emit("in_place", draw.one_of(*IN_PLACE), target, draw.like(target))[0]


def identity(draw: Draw) -> str:
    """What changes nothing, or looks so."""
    target = draw.pick(lambda t: True)
    return draw.emit("identity", "{r0} = " + draw.one_of(*IDENTITIES), target)[0]


def integer_identity(draw: Draw) -> str:
    """The same of integers, for which zero elimination acts."""
    target = draw.pick(lambda t: not t.is_floating_point())
    text = draw.one_of(*IDENTITIES[:6], *IDENTITIES[6:14])
    return draw.emit("identity", "{r0} = " + text, target)[0]


def cast(draw: Draw) -> str:
    """Another dtype, or the same."""
    return draw.emit("cast", "{r0} = " + draw.one_of(*CASTS), draw.pick(is_float))[0]


def memory_format(draw: Draw) -> str:
    """Another memory format of four dims."""
    target = draw.pick(lambda t: is_float(t) and t.dim() == 4)
    return draw.emit("memory_format", "{r0} = " + draw.one_of(*FORMATS), target)[0]


def masked(draw: Draw) -> str:
    """`where` and `masked_fill` with a mask of the rows' shape."""
    rows = draw.rows(2, 4)
    try:
        shape = draw.value(rows).shape
        mask = draw.pick(lambda t: t.dtype == torch.bool and t.shape == shape)
    except Nothing:
        text = draw.one_of(
            "{r0} = {0} > 0.25", "{r0} = ({0} * 0).to(torch.bool)", "{r0} = {0} != 0"
        )
        mask = draw.emit("mask", text, exact_input(draw, rows))[0]
    text = draw.one_of(
        "torch.where({1}, {0}, 0.0)",
        "torch.where({1}, {0}, -{0})",
        "{0}.masked_fill({1}, 0.5)",
        "{0} * {1}",
        "torch.where({1} & {1}, {0}, torch.zeros_like({0}))",
        "torch.where({1} * {1}, {0}, 0.5)",
    )
    return draw.emit("masked", "{r0} = " + text, rows, mask)[0]


def exact_input(draw: Draw, rows: str) -> str:
    """An input of the rows' shape: comparing computed numbers would depend on their rounding."""
    inputs = [one for one in draw.given if one.role == "input"]
    shape = draw.value(rows).shape
    names = [n.name for n in inputs if draw.value(n.name).shape == shape and n.kind == "DT"]
    untouched = [n for n in names if all(n not in step.arguments[:1] for step in draw.steps)]
    if not untouched:
        raise Nothing
    return draw.one_of(*untouched)


def scalar(draw: Draw) -> str:
    """A product with a number."""
    number = draw.one_of("0.5", "2", "-1", "1.0", "-0.0", "0.125")
    text = draw.one_of(f"{{0}} * {number}", f"{{0}} + {number}", "-{0}", "{0}.abs()", "{0}.neg()")
    return draw.emit("scalar", "{r0} = " + text, draw.rows(1, 4))[0]


def reduction(draw: Draw) -> str:
    """Sums and largest values of rows."""
    text = draw.one_of(
        "{0}.sum(-1, keepdim=True) * 0.1",
        "{0}.mean(-1)",
        "{0}.amax(-1, keepdim=True)",
        "{0}.softmax(-1)",
        "torch.cumsum({0}, -1) * 0.1",
    )
    return draw.emit("reduction", "{r0} = " + text, draw.rows(1, 4))[0]


OPERATORS = {
    residual: 3.0,
    in_place: 2.0,
    identity: 2.0,
    integer_identity: 0.6,
    cast: 1.0,
    memory_format: 0.7,
    masked: 1.0,
    scalar: 0.7,
    reduction: 0.5,
}
