"""Rows quantized by their own largest magnitude, perhaps smoothed: `npu_dynamic_quant`."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.meaning.answer import Answer, NotThat, Slot
from ascend_passes.meaning.family import agrees
from ascend_passes.meaning.rounded import BEYOND, STEPS, Rounded, near_integers, reads_back
from ascend_passes.meaning.vocabulary import CHOICES, PIECEWISE

aten = torch.ops.aten
OTHER_STEPS = (127.5, 128.0)
"""Steps that models take as well, torch.ao half of the range: with the operator's own scale in the
place of theirs, what a row stands for differs by one step at most."""
MAGNITUDES = (1e-3, 1.0, 1e3, BEYOND)
PARTS = frozenset(
    {
        *(aten.slice.Tensor, aten.select.int, aten.split.Tensor, aten.split_with_sizes.default),
        *(aten.unbind.int, aten.chunk.default, aten.narrow.default, aten.diagonal.default),
        *(aten.index_select.default, aten.roll.default, operator.getitem),
    }
)
"""What may leave columns out."""
MOST_ROWS = 512
"""Probes of rows in which each column is the largest in turn."""


def dynamic_scale(rounded: Rounded) -> Answer | NotThat | None:
    """A row, perhaps smoothed, scaled by its own largest magnitude; None where the scale is
    another."""
    smooth = smoothing(rounded)
    steps = None if smooth is None else steps_of(rounded, smooth)
    if steps is None or smooth is None:
        return None
    if leaves_out(rounded) and asked_rows(rounded) > MOST_ROWS:
        return NotThat("its largest number is taken of parts of a row, too wide to ask", near=True)
    for x in probing_rows(rounded):
        wanted = x * smooth * steps / (x * smooth).abs().amax(-1, keepdim=True)
        if not agrees(rounded.smooth(x), wanted):
            return NotThat("some rows have another scale than their largest magnitude", near=True)
        inside = wanted.abs() < STEPS  # the largest may lie at a tie, between 127 and 128
        whole = rounded.whole(x).reshape(x.shape)
        if not near_integers(whole[inside], wanted.round()[inside]) or whole.abs().max() > 128:
            return NotThat("it does not round to the nearest step of int8", near=True)
    read = reads_back(rounded, smooth)
    if read is None:
        return NotThat("its result is neither an integer nor a row read back")
    scales = tuple(scale_in(rounded, node, smooth, steps) for node in rounded.lifted.cone.others)
    if any(scale is None for scale in scales):
        return NotThat("a value inside that others want is no power of its scale", near=True)
    inputs, power = {"x": Slot(0)}, 0
    if rounded.given:
        (leaf,) = rounded.given
        inputs["smooth"] = Slot.of_leaf(rounded.lifted.cone, leaf)
        power = (
            1 if agrees(smooth / rounded.given[leaf].reshape(-1), torch.ones_like(smooth)) else -1
        )
    numbers = {"read": read, "scales": scales, "power": power}
    note = dynamic_note(rounded, steps)
    return Answer("quantize_dynamic", by_row, inputs, numbers, note=note)


def probing_rows(rounded: Rounded) -> Iterator[Tensor]:
    """Rows of several magnitudes, each with both signs, since the largest number of a single row is
    its largest magnitude half of the time; where a piece reads parts of rows, also rows in which
    each column is the largest in turn."""
    for seed, magnitude in enumerate(MAGNITUDES):
        x = rounded.rows(magnitude, seed)
        yield from (x, -x)
    if not leaves_out(rounded):
        return
    for index in range(asked_rows(rounded)):
        x = rounded.rows(1.0, index)
        rows = x.view(-1, x.shape[-1])
        columns = (torch.arange(len(rows)) + index * len(rows)) % x.shape[-1]
        rows[torch.arange(len(rows)), columns] = 32.0
        yield x


def leaves_out(rounded: Rounded) -> bool:
    """Whether a piece reads parts of rows, so that a column may not count."""
    return any(node.target in PARTS for node in rounded.lifted.cone.own)


def asked_rows(rounded: Rounded) -> int:
    """How many values of the rows' shape it takes for each column to be the largest once."""
    shape = rounded.rows(1.0).shape
    return -(-(shape[-1] ** 2) // shape.numel())


def smoothing(rounded: Rounded) -> Tensor | None:
    """What each column of the rows is multiplied by before their largest magnitude is taken, up to
    one factor: ones, or the only tensor that the piece reads or its reciprocal, with its sign."""
    x = rounded.rows(1.0)
    width = x.shape[-1]
    if not rounded.given:
        return torch.ones(width, dtype=torch.float64)
    (leaf, *more) = rounded.given
    held = rounded.given[leaf].reshape(-1)
    if more or held.numel() != width:
        return None
    plain = rounded.smooth(x)
    if not agrees(rounded.smooth(x, {leaf: -rounded.given[leaf]}), -plain):
        return None
    ratio = (plain / x).reshape(-1, width)
    ratio = ratio / ratio[:, :1]
    for factors in (held, 1 / held):
        if agrees(ratio, (factors / factors[0]).expand_as(ratio)):
            return factors
    return None


def steps_of(rounded: Rounded, smooth: Tensor) -> float | None:
    """The steps from zero to the largest magnitude of a row; None where scales are no such."""
    x = rounded.rows(1.0)
    largest = (x * smooth).abs().amax(-1, keepdim=True)
    found = rounded.smooth(x) * largest / (x * smooth)
    near = (steps for steps in (STEPS, *OTHER_STEPS) if agrees(found, torch.full_like(x, steps)))
    return next(near, None)


def dynamic_note(rounded: Rounded, steps: float) -> str:
    """Where the operator's rows differ from the spelling's."""
    notes = []
    if steps != STEPS:
        notes.append(f"the model takes {steps:g} steps for the largest magnitude, the operator 127")
    if any(node.target in PIECEWISE | CHOICES for node in rounded.lifted.cone.nodes):
        notes.append(
            "rows below the model's smallest scale have a scale of their own, zeros have 0"
        )
    return "; ".join(notes)


def scale_in(
    rounded: Rounded, node: fx.Node, smooth: Tensor, steps: float
) -> tuple[float, int] | None:
    """(factor, power) of a value that is a factor times a power, 1 or -1, of the row's scale."""
    found = []
    for magnitude in (1.0, 16.0):
        x = rounded.rows(magnitude)
        scale = ((x * smooth).abs().amax(-1) / steps).reshape(-1)
        at = {**rounded.given, rounded.lifted.cone.sources[0]: x}
        held = rounded.lifted.at(at, node).reshape(-1)
        if held.numel() != scale.numel():
            return None
        found += [(held, scale)]
    for power in (1, -1):
        factors = torch.cat([held / scale**power for held, scale in found])
        if agrees(factors, factors[:1].expand_as(factors)):
            return float(factors[0]), power
    return None


def by_row(
    x: Tensor,
    smooth: Tensor | None = None,
    *,
    read: bool,
    scales: tuple[tuple[float, int], ...],
    power: int,
) -> tuple[Tensor, ...]:
    """The int8 rows of `npu_dynamic_quant`, or the rows read back, then what others want of the
    scale, [..., 1]."""
    factors = None
    if smooth is not None:
        wide = smooth.reshape(-1)
        factors = wide.to(x.dtype) if power > 0 else (1 / wide.to(torch.float32)).to(x.dtype)
    y, scale = npu.npu_dynamic_quant(x, smooth_scales=factors)
    column = scale.unsqueeze(-1)
    row = (y.to(torch.float32) * column).to(x.dtype) if read else y
    wanted = ((column if power > 0 else 1 / column, factor) for factor, power in scales)
    return (row, *(held if factor == 1.0 else held * factor for held, factor in wanted))
