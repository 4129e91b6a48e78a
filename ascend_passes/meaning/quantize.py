"""Quantizing rows to int8 by meaning: an affine map, one rounding and one clamp.

A piece with one rounding, in float64:

* without its rounding and clamps it is `x * a + b`. The factor a is a product of powers of the
  tensors that the piece reads, and b another of them or a number: a stored scale and zero point.
  Or a is 127 over the largest magnitude of each row: a dynamic scale;
* with them it is the rounded and clamped map, at random rows and far outside of int8;
* its result is that integer, in any dtype, or what the integer stands for: the row read back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.ir.graph import plain_size, same_size, value
from ascend_passes.meaning.answer import Answer, NotThat, Slot
from ascend_passes.meaning.cone import (
    Cone,
    ancestors,
    cone_of,
    descendants,
    fake_tensor,
    is_widening,
)
from ascend_passes.meaning.family import (
    Place,
    Recognition,
    Recognizer,
    agrees,
    made_of,
    random_rows,
    random_scales,
)
from ascend_passes.meaning.lift import CANNOT_RUN, WidePiece
from ascend_passes.meaning.looks import looks_like_quantize
from ascend_passes.meaning.powers import powers_of, product_of_powers
from ascend_passes.meaning.vocabulary import (
    CASTS,
    CHOICES,
    LAYOUT,
    MAKES,
    PIECEWISE,
    REDUCTIONS,
    ROUNDINGS,
)

aten = torch.ops.aten
ARITHMETIC = frozenset(
    {
        *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default),
        *(aten.reciprocal.default, aten.rsub.Scalar, aten.add.Scalar, aten.mul.Scalar),
        *(aten.div.Scalar, aten.sub.Scalar, aten.pow.Tensor_Scalar),
    }
)
ALLOWED_HERE = (
    ARITHMETIC
    | ROUNDINGS
    | CASTS
    | LAYOUT
    | MAKES
    | PIECEWISE
    | CHOICES
    | (REDUCTIONS - {aten.mm.default, aten.bmm.default, aten.addmm.default, aten._int_mm.default})
)
CLAMPS = PIECEWISE - {aten.abs.default}
"""What may stand round a rounding; the absolute values of a row belong to its scale."""
REACH = BEFORE, BEHIND = 10, 8
LOWEST, HIGHEST = -128.0, 127.0
STEPS = 127.0
"""Steps of the operator's dynamic scale from zero to the largest magnitude of a row."""
OTHER_STEPS = (127.5, 128.0)
"""Steps that models take as well, torch.ao half of the range: with the operator's own scale in the
place of theirs, what a row stands for differs by one step at most."""
MAGNITUDES = (1e-3, 1.0, 1e3)
INT8_CODE = 1
"""torch's number for int8, which `npu_quantize` takes."""


def quantize_places(anchor: fx.Node) -> Iterator[Place]:
    """Values of as many elements behind a rounding, with the rows in front of it, the farthest
    first: nearer ones are scaled already."""
    fake = fake_tensor(anchor)
    if fake is None or not fake.dim():
        return
    before = [node for node in ancestors(anchor, BEFORE, ALLOWED_HERE) if may_be_rows(node, fake)]
    for out in (*descendants(anchor, BEHIND, ALLOWED_HERE), anchor):
        made = fake_tensor(out)
        if made is None or out.target in LAYOUT or is_widening(out):
            continue
        if same_size(made.numel(), fake.numel()):
            yield from ((out, (x,)) for x in reversed(before))


def may_be_rows(node: fx.Node, rounded: Tensor) -> bool:
    """Whether a node holds floating rows of as many elements as are rounded."""
    fake = fake_tensor(node)
    if fake is None or not fake.dim() or not fake.dtype.is_floating_point:
        return False
    return plain_size(fake.shape[-1]) is not None and same_size(fake.numel(), rounded.numel())


def quantize_piece(place: Place) -> Cone | None:
    """The piece at a place, if it rounds once and reads nothing larger than a row; values inside
    that others want, such as a dynamic scale, are results."""
    cone = cone_of(*place, ALLOWED_HERE)
    if cone is None:
        return None
    count, width = value(cone.sources[0]).numel(), plain_size(value(cone.sources[0]).shape[-1])
    rounded = [node for node in cone.own if node.target in ROUNDINGS]
    if len(rounded) != 1 or not all(size_in(leaf, (1, width)) for leaf in cone.leaves):
        return None
    readers = (user for user in cone.sources[0].users if user in cone.own)
    if all(user.target in LAYOUT for user in readers):
        return None  # what they give are the rows
    wanted = (
        node
        for node in sorted(cone.own)
        if node is not cone.out
        and fake_tensor(node) is not None
        and not same_size(value(node).numel(), count)
        and any(user not in cone.own for user in node.users)
    )
    return replace(cone, others=tuple(wanted))


def size_in(leaf: fx.Node, sizes: tuple[int | None, ...]) -> bool:
    """Whether a leaf holds one of these numbers of elements."""
    fake = fake_tensor(leaf)
    if fake is None or fake.dtype.is_complex:
        return False
    return all(plain_size(size) is not None for size in fake.shape) and int(fake.numel()) in sizes


@dataclass(frozen=True, eq=False)
class Rounded:
    """A piece that is asked with and without its rounding and clamps."""

    lifted: WidePiece
    plain: WidePiece
    """Without rounding and clamps of values as large as the rows."""
    last: fx.Node
    """The last of them, whose value is the integer."""
    given: Mapping[fx.Node, Tensor]
    """Values for the leaves: powers of two, so that scales divide exactly."""

    @classmethod
    def of(cls, lifted: WidePiece) -> Rounded:
        """The piece with random leaves."""
        cone, source = lifted.cone, torch.Generator().manual_seed(5)
        count = value(cone.sources[0]).numel()
        inside = [
            node
            for node in cone.nodes
            if node in cone.own
            and node.target in ROUNDINGS | CLAMPS
            and same_size(value(node).numel(), count)
            and follows(node, next(n for n in cone.nodes if n.target in ROUNDINGS))
        ]
        given = {
            leaf: 2.0 ** torch.randint(-3, 3, lifted.shape(leaf), generator=source).double()
            for leaf in cone.leaves
            if leaf not in lifted.known
        }
        return cls(lifted, replace(lifted, erased=frozenset(inside)), inside[-1], given)

    def with_integers(self, scales: set[fx.Node]) -> Rounded:
        """The piece with integers for all leaves but the scales, as zero points are."""
        source = torch.Generator().manual_seed(7)
        given = {
            leaf: held
            if leaf in scales
            else torch.randint(-5, 6, held.shape, generator=source).double()
            for leaf, held in self.given.items()
        }
        return replace(self, given=given)

    def rows(self, magnitude: float, seed: int = 6) -> Tensor:
        """Random rows."""
        source = torch.Generator().manual_seed(seed)
        shape = self.lifted.shape(self.lifted.cone.sources[0])
        return torch.randn(shape, generator=source, dtype=torch.float64) * magnitude

    def whole(self, x: Tensor) -> Tensor:
        """The integers of rows."""
        return self.lifted.at({**self.given, self.lifted.cone.sources[0]: x}, self.last)

    def smooth(self, x: Tensor, given: Mapping[fx.Node, Tensor] | None = None) -> Tensor:
        """The integers of rows before they are rounded."""
        found = self.given if given is None else given
        return self.plain.at({**found, self.lifted.cone.sources[0]: x}, self.last).reshape(x.shape)


def follows(node: fx.Node, rounding: fx.Node) -> bool:
    """Whether a node is a rounding, or a clamp of its result or of its input."""
    return (
        node is rounding
        or node in rounding.users
        or node in rounding.all_input_nodes
        or any(
            follows(given, rounding)
            for given in node.all_input_nodes
            if rounding < node and given.op == "call_function" and not given < rounding
        )
        or leads_to(node, rounding, 4)
    )


def leads_to(node: fx.Node, rounding: fx.Node, depth: int) -> bool:
    """Whether a rounding is computed from a node by few operators."""
    if node is rounding:
        return True
    return (
        depth > 0
        and node < rounding
        and any(leads_to(user, rounding, depth - 1) for user in node.users)
    )


def solve_quantize(lifted: WidePiece) -> Answer | NotThat:
    """The quantize that a piece is."""
    try:
        rounded = Rounded.of(lifted)
        return dynamic(rounded) or static(rounded)
    except CANNOT_RUN as error:
        return NotThat(f"it cannot be computed in float64: {str(error)[:80]}")


def reads_back(rounded: Rounded, smooth: Tensor | float = 1.0) -> bool | None:
    """Whether the result is what the integers stand for, and not they; None where it is neither."""
    x = rounded.rows(1.0)
    at = {**rounded.given, rounded.lifted.cone.sources[0]: x}
    if agrees(rounded.lifted.at(at), rounded.lifted.at(at, rounded.last)):
        return False
    return True if agrees(rounded.plain.at(at), x * smooth) else None


def dynamic(rounded: Rounded) -> Answer | NotThat | None:
    """A row, perhaps smoothed, scaled by its own largest magnitude; None where the scale is
    another."""
    smooth = smoothing(rounded)
    steps = None if smooth is None else steps_of(rounded, smooth)
    if steps is None or smooth is None:
        return None
    for magnitude in MAGNITUDES:
        x = rounded.rows(magnitude)
        wanted = x * smooth * steps / (x * smooth).abs().amax(-1, keepdim=True)
        if not agrees(rounded.smooth(x), wanted):
            return NotThat(f"rows of magnitude {magnitude:.0e} have another scale", near=True)
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
        inputs["smooth"] = slot_of(rounded.lifted.cone, leaf)
        power = (
            1 if agrees(smooth / rounded.given[leaf].reshape(-1), torch.ones_like(smooth)) else -1
        )
    numbers = {"read": read, "scales": scales, "power": power}
    note = dynamic_note(rounded, steps)
    return Answer("quantize_dynamic", by_row, inputs, numbers, note=note)


def smoothing(rounded: Rounded) -> Tensor | None:
    """What each column of the rows is multiplied by before their largest magnitude is taken, up to
    one factor: ones, or the only tensor that the piece reads or its reciprocal."""
    x = rounded.rows(1.0)
    width = x.shape[-1]
    if not rounded.given:
        return torch.ones(width, dtype=torch.float64)
    (leaf, *more) = rounded.given
    held = rounded.given[leaf].reshape(-1)
    if more or held.numel() != width:
        return None
    ratio = (rounded.smooth(x) / x).reshape(-1, width)
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


def near_integers(found: Tensor, wanted: Tensor) -> bool:
    """Whether integers are the same, but for a thousandth that lie at a tie."""
    apart = (found - wanted).abs()
    return bool(apart.max() <= 1 and (apart > 0).double().mean() <= 1e-3)


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


def static(rounded: Rounded) -> Answer | NotThat:
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
    ends = rounded.whole(0 * x - 1e30).min().item(), rounded.whole(0 * x + 1e30).max().item()
    if float(factor.reshape(-1)[0]) < 0 or ends[1] != HIGHEST or ends[0] not in (LOWEST, -STEPS):
        return NotThat(f"it clamps to {ends[0]:.0f} and {ends[1]:.0f}, not to int8", near=True)
    small = x * 32 / factor
    floors = any(node.target is aten.floor.default for node in rounded.lifted.cone.own)
    point = point - 0.5 if floors else point  # floor(v + 1/2) rounds v
    wanted = (small * factor + point).round().clamp(*ends)
    if not near_integers(rounded.whole(small).reshape(x.shape), wanted):
        return NotThat("it does not round to the nearest integer", near=True)
    return stored_scale(rounded, powers, factor, point, ends[0])


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
    inputs |= {f"scale{i}": slot_of(cone, leaf) for i, leaf in enumerate(powers)}
    if isinstance(zero, fx.Node):
        inputs["zero"] = slot_of(cone, zero)
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


def slot_of(cone: Cone, leaf: fx.Node) -> Slot:
    """The place of a leaf."""
    return Slot(cone.leaves.index(leaf), leaf=True)


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


def spelled_static(x: Tensor, scale: Tensor) -> Tensor:
    """A row quantized with a stored scale."""
    return (x / scale).round().clamp(LOWEST, HIGHEST).to(torch.int8)


def spelled_dynamic(x: Tensor) -> tuple[Tensor, Tensor]:
    """A row quantized by its own largest magnitude, and its scale."""
    scale = x.float().abs().amax(-1, keepdim=True) / STEPS
    return (x / scale).round().clamp(LOWEST, HIGHEST).to(torch.int8), scale


RULES: Mapping[str, Recognition] = MappingProxyType(
    {
        "quantize_static": Recognition(
            "A row quantized with a stored scale becomes `npu_quantize`.",
            spelled_static,
            made_of(random_rows(6, 64), random_scales(1)),
            tolerance=1.0,
            hides_nan=True,
        ),
        "quantize_dynamic": Recognition(
            "A row quantized by its own largest magnitude becomes `npu_dynamic_quant`.",
            spelled_dynamic,
            made_of(random_rows(6, 64)),
            tolerance=1.0,
        ),
    }
)
QUANTIZES = Recognizer(
    "quantize",
    RULES,
    ROUNDINGS,
    quantize_places,
    quantize_piece,
    solve_quantize,
    ALLOWED_HERE,
    REACH,
    looks_like_quantize,
)
