"""Rows quantized with a stored scale, and perhaps a zero point: `npu_quantize`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.meaning.answer import Answer, NotThat, Slot
from ascend_passes.meaning.family import agrees
from ascend_passes.meaning.powers import powers_of, product_of_powers
from ascend_passes.meaning.rounded import (
    BEYOND,
    HIGHEST,
    LOWEST,
    STEPS,
    Rounded,
    near_integers,
    reads_back,
)

aten = torch.ops.aten
INT8_CODE = 1
"""torch's number for int8, which `npu_quantize` takes."""
SHRINKS = 2.0**40
"""How many times smaller scales make rows, so that `BEYOND` is still far outside of int8."""


def static_scale(rounded: Rounded) -> Answer | NotThat:
    """Rows with a stored scale, and perhaps a zero point."""
    x = rounded.rows(1.0)

    def point_at(given: Mapping[fx.Node, Tensor]) -> Tensor:
        return rounded.smooth(0 * x, given)

    def factor_at(given: Mapping[fx.Node, Tensor]) -> Tensor:
        return rounded.smooth(0 * x + 1, given) - point_at(given)

    factor, point = factor_at(rounded.given), point_at(rounded.given)
    if not agrees(rounded.smooth(x), x * factor + point):
        return NotThat("before its rounding it is no scaled row")
    width = x.shape[-1]
    if not agrees(factor, factor.reshape(-1, width)[:1].expand(factor.numel() // width, width)):
        return NotThat("its scale is another for each row, and not the row's own", near=True)
    powers = powers_of(factor_at, rounded.given, list(rounded.given))
    if powers is None or not factor.all():
        return NotThat("its scale is no product of what it reads", near=True)
    if not powers and agrees(factor, torch.ones_like(factor)):
        return NotThat("it only rounds")
    rounded = rounded.with_integers(set(powers))
    point = rounded.smooth(0 * x)
    ends = ends_of(rounded, powers)
    if float(factor.reshape(-1)[0]) < 0 or ends[1] != HIGHEST or ends[0] not in (LOWEST, -STEPS):
        return NotThat(f"it clamps to {ends[0]:.0f} and {ends[1]:.0f}, not to int8", near=True)
    small = x * 32 / factor
    floors = any(node.target is aten.floor.default for node in rounded.lifted.cone.own)
    point = point - 0.5 if floors else point  # floor(v + 1/2) rounds v
    wanted = (small * factor + point).round().clamp(*ends)
    if not near_integers(rounded.whole(small).reshape(x.shape), wanted):
        return NotThat("it does not round to the nearest integer", near=True)
    return stored_scale(rounded, powers, factor, point, ends[0])


def ends_of(rounded: Rounded, powers: Mapping[fx.Node, int]) -> tuple[float, float]:
    """The least and the largest integer of any rows, with scales that make them small: a clamp in
    front of the scale shows."""
    scales = {leaf: rounded.given[leaf] * SHRINKS**-power for leaf, power in powers.items()}
    shrunk = replace(rounded, given={**rounded.given, **scales})
    far = torch.full_like(rounded.rows(1.0), BEYOND)
    return shrunk.whole(-far).min().item(), shrunk.whole(far).max().item()


def stored_scale(
    rounded: Rounded, powers: Mapping[fx.Node, int], factor: Tensor, point: Tensor, lowest: float
) -> Answer | NotThat:
    """The operator with the scale and the zero point that a piece reads."""
    cone = rounded.lifted.cone
    number = factor.reshape(-1, factor.shape[-1])[0]
    for leaf, power in powers.items():
        number = number / rounded.given[leaf].reshape(-1) ** power
    if not agrees(number, number[:1].expand_as(number)):
        return NotThat("its scale is no product of what it reads", near=True)
    zeros = [leaf for leaf in rounded.given if leaf not in powers]
    zero = zero_point(rounded, zeros, point)
    if isinstance(zero, NotThat):
        return zero
    read = reads_back(rounded)
    if read is None:
        return NotThat("its result is neither an integer nor a row read back")
    inputs = {"x": Slot(0)}
    inputs |= {f"scale{i}": Slot.of_leaf(cone, leaf) for i, leaf in enumerate(powers)}
    if isinstance(zero, fx.Node):
        inputs["zero"] = Slot.of_leaf(cone, zero)
    numbers = {
        "read": read,
        "powers": tuple(powers.values()),
        "number": clean_ratio(float(number[0])),
        "point": 0.0 if isinstance(zero, fx.Node) else zero,
    }
    notes = []
    if lowest != LOWEST:
        notes.append("the operator clamps to -128, one step lower")
    if any(node.target is aten.floor.default for node in cone.nodes):
        notes.append("the operator rounds ties to even numbers, not up: one step")
    return Answer("quantize_static", by_scale, inputs, numbers, ("x",), note="; ".join(notes))


def zero_point(rounded: Rounded, leaves: list[fx.Node], point: Tensor) -> fx.Node | float | NotThat:
    """The leaf, or the number, that is added to the scaled rows."""
    for leaf in leaves:
        held = rounded.given[leaf].reshape(-1)
        if agrees(point, held.expand(point.shape)):
            return leaf
    number = float(point.reshape(-1)[0])
    if agrees(point, torch.full_like(point, number)) and not leaves:
        return number if number == round(number) else NotThat("its zero point is no integer")
    return NotThat("its zero point is no tensor that it reads", near=True)


def clean_ratio(number: float) -> float:
    """A number that was found by probing, without what probing adds."""
    return float(round(number)) if math.isclose(number, round(number), rel_tol=1e-12) else number


def by_scale(
    x: Tensor,
    zero: Tensor | None = None,
    *,
    read: bool,
    powers: tuple[int, ...],
    number: float,
    point: float,
    **scales: Tensor,
) -> Tensor:
    """The int8 rows of `npu_quantize`, or the rows read back."""
    given = [scales[f"scale{index}"] for index in range(len(powers))]
    (scale, divides) = divisor(x, given, powers, number)
    zeros = None
    if zero is not None:
        zeros = zero.reshape(-1).to(scale.dtype if scale.dtype == torch.bfloat16 else torch.int32)
        zeros = zeros if divides else zero.reshape(-1).to(scale.dtype)
    elif point:
        kind = scale.dtype if not divides or scale.dtype == torch.bfloat16 else torch.int32
        zeros = torch.full(scale.shape, point, dtype=kind, device=x.device)
    y: Tensor = npu.npu_quantize(x, scale, zeros, INT8_CODE, -1, divides)
    if not read:
        return y
    row = y.to(x.dtype)
    row = row if zeros is None else row - zeros.to(x.dtype)
    return row * scale.to(x.dtype) if divides else row / scale.to(x.dtype)


def divisor(
    x: Tensor, given: list[Tensor], powers: tuple[int, ...], number: float
) -> tuple[Tensor, bool]:
    """What `npu_quantize` takes as its scale, and whether it divides by it.

    A scale that is read as it is keeps its dtype; what has to be computed of several is float32.
    """
    if not given:
        return torch.full((1,), 1 / number, dtype=torch.float32, device=x.device), True
    if number == 1.0 and len(given) == 1:
        scale = given[0].reshape(-1)
        if powers[0] > 0 and scale.dtype == x.dtype:
            return scale, False
        if powers[0] < 0 and scale.dtype in (torch.float32, torch.bfloat16):
            return scale, True
    return product_of_powers(given, [-power for power in powers], 1 / number), True
