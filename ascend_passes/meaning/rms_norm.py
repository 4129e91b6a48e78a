"""RMSNorm by meaning: rows over their root mean square, times a gain.

Asked of a piece F with rows x, in float64:

* rows of magnitude 1e7, beside which no epsilon counts, give the gain G = F(x) rms(x) / x, which
  must be one number for each column and affine in the one parameter of the piece;
* rows of magnitude 1e-20 give epsilon = (x G / F(x))**2 - rms(x)**2;
* at 13 magnitudes between, at epsilon's own and on both sides of every number that a clamp names,
  F(x) is x G / sqrt(rms(x)**2 + epsilon) within 1e-7.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
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
    made_of,
    random_rows,
    random_scales,
)
from ascend_passes.meaning.lift import CANNOT_RUN, WidePiece
from ascend_passes.meaning.looks import looks_like_norm
from ascend_passes.meaning.vocabulary import ALLOWED, LAYOUT, PIECEWISE, REDUCTIONS

aten = torch.ops.aten
LARGE, SMALL = 1e7, 1e-20
"""Magnitudes beside which no epsilon counts, and which count beside none."""
MAGNITUDES = tuple(10.0**power for power in (4, 2, 1, 0, -1, -2, -2.5, -3, -3.5, -4, -5, -6, -8))
BOUND = 1e-7
"""Largest relative difference: 1e-20 squared leaves seven digits of an epsilon of 1e-8."""
TINY_EPSILON, FAR = 1e-14, 1e4
"""An epsilon that no activation meets may stand elsewhere in the formula, as in `x / (rms + eps)`:
below FAR times its root, and there by less than half of the value."""
MATRICES = frozenset({aten.mm.default, aten.addmm.default, aten.mv.default, aten._int_mm.default})
ANCHORS = REDUCTIONS - MATRICES
ALLOWED_HERE = ALLOWED - MATRICES
REACH = BEFORE, BEHIND = 5, 14
"""Operators between the rows and the reduction, and between that and the result."""


def norm_places(anchor: fx.Node) -> Iterator[Place]:
    """Values of the rows' size behind a reduction, with the rows in front of it."""
    fake = fake_tensor(anchor.all_input_nodes[0]) if anchor.all_input_nodes else None
    if fake is None or not fake.dim() or not fake.dtype.is_floating_point:
        return
    before = ancestors(anchor, BEFORE, ALLOWED_HERE)
    rows = [node for node in before if are_rows(node) and is_reduced(node, anchor)]
    if not rows:
        return
    count = value(rows[0]).numel()
    for out in descendants(anchor, BEHIND, ALLOWED_HERE, before, count):
        if is_widening(out) or (out.target in LAYOUT and out.target is not operator.getitem):
            continue
        yield from ((out, (x,)) for x in rows if x < out and as_many(x, out))


def is_reduced(node: fx.Node, anchor: fx.Node) -> bool:
    """Whether a reduction gives one number for each row of a node, or is the norm itself."""
    fake, made = fake_tensor(node), fake_tensor(anchor)
    if made is None or fake is None:
        return anchor.target is aten._fused_rms_norm.default
    return same_size(made.numel() * fake.shape[-1], fake.numel())


def are_rows(node: fx.Node) -> bool:
    """Whether a node holds floating rows of two elements or more."""
    fake = fake_tensor(node)
    if fake is None or fake.dim() < 1 or not fake.dtype.is_floating_point:
        return False
    width = plain_size(fake.shape[-1])
    return width is not None and width > 1


def as_many(one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes hold as many floating elements."""
    a, b = fake_tensor(one), fake_tensor(other)
    if a is None or b is None or not b.dim() or not b.dtype.is_floating_point:
        return False
    return same_size(a.numel(), b.numel())


def norm_piece(place: Place) -> Cone | None:
    """The piece at a place, if it can be a norm."""
    cone = cone_of(*place, ALLOWED_HERE)
    return cone if cone is not None and may_be_norm(cone) else None


def may_be_norm(cone: Cone) -> bool:
    """Whether a piece reduces, computes no integers, reads nothing larger than a gain, and holds no
    value in a narrower range than its rows and its result."""
    width = plain_size(value(cone.sources[0]).shape[-1])
    own = [fake_tensor(node) for node in cone.nodes]
    if not any(node.target in REDUCTIONS for node in cone.own):
        return False
    kinds = [fake.dtype for fake in own if fake is not None]
    if not all(kind.is_floating_point for kind in kinds):
        return False
    if not all(gain_size(leaf) in (1, width) for leaf in cone.leaves):
        return False
    ends = (torch.finfo(value(node).dtype).max for node in (cone.sources[0], cone.out))
    return min(torch.finfo(kind).max for kind in kinds) >= min(ends)


def gain_size(leaf: fx.Node) -> int:
    """The number of elements, -1 where it is a symbol; a gain has one for each column."""
    fake = fake_tensor(leaf)
    sizes = [plain_size(size) for size in fake.shape] if fake is not None else [None]
    if None in sizes:
        return -1
    count = math.prod(size or 0 for size in sizes)
    return count if count == 1 or sizes[-1] == count else -1


@dataclass(frozen=True, eq=False)
class ProbedRows:
    """Random rows, at any magnitude, through a piece."""

    lifted: WidePiece
    base: Tensor
    given: dict[fx.Node, Tensor]

    @classmethod
    def of(cls, lifted: WidePiece, gains: list[fx.Node], source: torch.Generator) -> ProbedRows:
        """Rows for the piece's source, and random gains."""
        shape, wide = lifted.shape(lifted.cone.sources[0]), torch.float64
        base = torch.randn(math.prod(shape[:-1]), shape[-1], generator=source, dtype=wide)
        given = {
            gain: torch.rand(lifted.shape(gain), generator=source, dtype=wide) + 0.5
            for gain in gains
        }
        return cls(lifted, base + 0.1 * base.sign(), given)

    def at(self, magnitude: float) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, what the piece makes of them, and their mean squares.

        Raises:
            ValueError: another number of elements comes out; and as `Lifted.at`.
        """
        x, source = self.base * magnitude, self.lifted.cone.sources[0]
        y = self.lifted.at({**self.given, source: x.view(self.lifted.shape(source))})
        if y.numel() != x.numel():
            raise ValueError("another number of elements")
        return x, y.reshape(x.shape), x.square().mean(-1, keepdim=True)


def solve_norm(lifted: WidePiece) -> Answer | NotThat:
    """The norm that a piece is."""
    cone, width = lifted.cone, lifted.shape(lifted.cone.sources[0])[-1]
    gains = [leaf for leaf in cone.leaves if leaf not in lifted.known]
    if any(value(leaf).numel() != width for leaf in gains):
        return NotThat("it reads a number that is not known while compiling", near=True)
    if len(gains) > 1:
        return NotThat("it has two gains", near=True)
    rows = ProbedRows.of(lifted, gains, torch.Generator().manual_seed(1))
    try:
        return norm_of(rows, gains)
    except CANNOT_RUN as error:
        return NotThat(f"it cannot be computed in float64: {str(error)[:80]}")


def norm_of(rows: ProbedRows, gains: list[fx.Node]) -> Answer | NotThat:
    """The norm, from what the rows become; errors as in `Rows.at`."""
    x, y, mean = rows.at(LARGE)
    scale = y * mean.sqrt() / x
    if not scale.isfinite().all() or not scale.abs().max() or not near_enough(scale, scale[:1]):
        return NotThat("large rows do not become rows over their root mean square times a gain")
    gain = scale[:1]
    if is_scaled_by_known(rows, y):
        return NotThat("it is scaled by a number that belongs to what follows")
    x, y, mean = rows.at(SMALL)
    every = (x * gain / y).square() - mean
    epsilon = float(every.median())
    epsilon = 0.0 if abs(epsilon) < 1e-36 else epsilon
    if not math.isfinite(epsilon) or epsilon < 0:
        return NotThat("small rows show no epsilon", near=True)
    if epsilon and (every - epsilon).abs().max() > 1e-6 * epsilon:
        return NotThat("small rows show no epsilon", near=True)
    farthest = farthest_difference(rows, gain, epsilon)
    if isinstance(farthest, NotThat):
        return farthest
    line = affine(gain, rows.given[gains[0]].reshape(1, -1) if gains else None)
    if isinstance(line, NotThat):
        return line
    numbers = {"epsilon": float(f"{epsilon:.7g}"), "offset": line[0], "factor": line[1]}
    inputs = {"x": Slot(0)}
    if gains:
        inputs["gamma"] = Slot(rows.lifted.cone.leaves.index(gains[0]), leaf=True)
    note = f"below a magnitude of {farthest:.0e} the value is another" if farthest else ""
    return Answer(rule_of(line, gains), built_norm, inputs, numbers, ("x",), note=note)


def is_scaled_by_known(rows: ProbedRows, y: Tensor) -> bool:
    """Whether a tensor of one number scales large rows: it is a scale, not an epsilon."""
    for leaf, number in rows.lifted.known.items():
        known = {**rows.lifted.known, leaf: number * 2}
        if not near_enough(replace(rows, lifted=replace(rows.lifted, known=known)).at(LARGE)[1], y):
            return True
    return False


def rule_of(line: tuple[float, float], gains: list[fx.Node]) -> str:
    """What a report calls a norm with this gain."""
    if not gains:
        return "rms_norm_without_gain"
    return "gemma_rms_norm" if line == (1.0, 1.0) else "rms_norm"


def near_enough(found: Tensor, wanted: Tensor) -> bool:
    """Whether values differ by at most `BOUND` of the largest."""
    return bool((found - wanted).abs().max() <= BOUND * found.abs().max())


def farthest_difference(rows: ProbedRows, gain: Tensor, epsilon: float) -> float | NotThat:
    """The largest magnitude below which the piece gives another value than the norm, which no
    activation reaches; 0 where there is none."""
    own = [math.sqrt(epsilon) * factor for factor in (0.1, 0.5, 1, 2, 10)] if epsilon else []
    farthest = 0.0
    for magnitude in (*MAGNITUDES, *edges(rows), *own):
        x, y, mean = rows.at(magnitude)
        wanted = x * gain * (mean + epsilon).rsqrt()
        apart = float(((y - wanted).abs() / wanted.abs().clamp(min=1e-300)).max())
        if apart < BOUND:
            continue
        tiny = 0 < epsilon <= TINY_EPSILON and magnitude <= FAR * math.sqrt(epsilon)
        if not tiny or not apart <= 0.5:
            reason = f"it differs from RMSNorm by {apart:.1e} at rows of magnitude {magnitude:.0e}"
            return NotThat(reason, near=True)
        farthest = max(farthest, magnitude)
    return farthest


def edges(rows: ProbedRows) -> Iterator[float]:
    """Magnitudes of rows on both sides of the numbers that clamps name: of elements, of their
    squares, of roots and of sums over a row."""
    width = math.sqrt(rows.base.shape[-1])
    for node in rows.lifted.cone.nodes:
        if node.target not in PIECEWISE:
            continue
        for given in (*node.args[1:], *node.kwargs.values()):
            if isinstance(given, (int, float)) and given:
                bound = abs(float(given))
                for edge in (bound, math.sqrt(bound), bound * width, bound / width):
                    yield from (0.3 * edge, 3.0 * edge)


def affine(gain: Tensor, parameter: Tensor | None) -> tuple[float, float] | NotThat:
    """(a, b) of a gain that is a + b * parameter, or a number a without one."""
    if parameter is None:
        number = float(gain[0, 0])
        if not near_enough(gain, torch.full_like(gain, number)):
            return NotThat("its gain is another for each column, and no parameter", near=True)
        return clean(number), 0.0
    low, high = int(parameter.argmin()), int(parameter.argmax())
    slope = float((gain[0, high] - gain[0, low]) / (parameter[0, high] - parameter[0, low]))
    start = float(gain[0, low] - slope * parameter[0, low])
    if not near_enough(gain, start + slope * parameter):
        return NotThat("its gain is not affine in its parameter", near=True)
    return clean(start), clean(slope)


def clean(number: float) -> float:
    """A number that was found by probing, without what probing adds."""
    return float(round(number)) if abs(number - round(number)) < 1e-6 else number


def built_norm(
    x: Tensor, gamma: Tensor | None = None, *, epsilon: float, offset: float, factor: float
) -> Tensor:
    """The norm operator of rows [..., H] with the gain `offset + factor * gamma`."""
    if gamma is None:
        ones = torch.full((x.shape[-1],), offset, dtype=x.dtype, device=x.device)
        scaled: Tensor = npu.npu_rms_norm(x, ones, epsilon)[0]
        return scaled
    gain = gamma.reshape(-1)
    if (offset, factor) == (1.0, 1.0) and gain.dtype == x.dtype and x.is_contiguous():
        scaled = npu.npu_gemma_rms_norm(x, gain, epsilon)[0]
        return scaled
    if (offset, factor) != (0.0, 1.0):
        gain = gain.to(torch.float32) * factor + offset
    kept = gain.dtype in (x.dtype, torch.float32) and x.dtype != torch.float32
    scaled = npu.npu_rms_norm(x, gain if kept else gain.to(x.dtype), epsilon)[0]
    return scaled


def spelled_norm(x: Tensor, gamma: Tensor | None = None, one: float = 0.0) -> Tensor:
    """RMSNorm as models write it, with the gain `one + gamma`."""
    wide = x.float()
    values = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (values if gamma is None else values * (one + gamma.float())).to(x.dtype)


ROWS, GAIN = random_rows(6, 64), random_scales(64)
RULES = MappingProxyType(
    {
        "rms_norm": Recognition(
            "RMSNorm becomes `npu_rms_norm`.", spelled_norm, made_of(ROWS, GAIN)
        ),
        "rms_norm_without_gain": Recognition(
            "RMSNorm without a gain becomes `npu_rms_norm` with a gain of ones.",
            spelled_norm,
            made_of(ROWS),
        ),
        "gemma_rms_norm": Recognition(
            "RMSNorm scaled by one plus a weight becomes `npu_gemma_rms_norm`.",
            lambda x, gamma: spelled_norm(x, gamma, 1.0),
            made_of(ROWS, GAIN),
        ),
    }
)
NORMS = Recognizer(
    "rms_norm",
    RULES,
    ANCHORS,
    norm_places,
    norm_piece,
    solve_norm,
    ALLOWED_HERE,
    REACH,
    looks_like_norm,
    rounds_sums=True,
    reads_numbers=True,
)
