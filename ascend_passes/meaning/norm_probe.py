"""What a piece of rows must be for RMSNorm, asked in float64; see `rms_norm`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.ir.graph import value
from ascend_passes.meaning.answer import Answer, NotThat, Slot
from ascend_passes.meaning.lift import WidePiece
from ascend_passes.meaning.vocabulary import PIECEWISE

LARGE, SMALL = 1e15, 1e-20
"""Magnitudes beside which no epsilon counts, and which count beside none."""
MAGNITUDES = tuple(10.0**power for power in (4, 2, 1, 0, -1, -2, -2.5, -3, -3.5, -4, -5, -6, -8))
BOUND = 1e-7
"""Largest relative difference: 1e-20 squared leaves seven digits of an epsilon of 1e-8."""
FEWEST_ROWS = 4
"""Rows that show what a piece does with any row."""
FAR_GAIN = -1e6
"""By what a parameter is multiplied, so that results reach what bounds them."""
TINY_EPSILON, FAR = 1e-14, 1e4
"""An epsilon that no activation meets may stand elsewhere in the formula, as in `x / (rms + eps)`:
below FAR times its root, and there by less than half of the value."""


@dataclass(frozen=True, eq=False)
class ProbedRows:
    """Random rows, at any magnitude, through a piece.

    A piece of one row is asked several times: whatever does not change with the length of a row is
    that row over its root mean square, times some gain.
    """

    lifted: WidePiece
    base: Tensor
    """[draws, rows of the piece, H]."""
    given: dict[fx.Node, Tensor]

    @classmethod
    def of(cls, lifted: WidePiece, gains: list[fx.Node], source: torch.Generator) -> ProbedRows:
        """Rows for the piece's source, and random gains."""
        shape, wide = lifted.shape(lifted.cone.sources[0]), torch.float64
        count = max(1, math.prod(shape[:-1]))
        draws = -(-FEWEST_ROWS // count)
        base = torch.randn(draws, count, shape[-1], generator=source, dtype=wide)
        given = {
            gain: torch.rand(lifted.shape(gain), generator=source, dtype=wide) + 0.5
            for gain in gains
        }
        return cls(lifted, base + 0.1 * base.sign(), given)

    def at(self, magnitude: float) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, what the piece makes of them, and their mean squares, [rows of all draws, H or 1].

        Raises:
            ValueError: another number of elements comes out; and as `WidePiece.at`.
        """
        draws = self.base * magnitude
        y = torch.stack([self.through(draw) for draw in draws]).reshape(-1, draws.shape[-1])
        x = draws.reshape(y.shape)
        return x, y, x.square().mean(-1, keepdim=True)

    def through(self, x: Tensor) -> Tensor:
        """What the piece makes of as many rows as it takes; errors as in `at`."""
        source = self.lifted.cone.sources[0]
        y = self.lifted.at({**self.given, source: x.view(self.lifted.shape(source))})
        if y.numel() != x.numel():
            raise ValueError("another number of elements")
        return y.reshape(x.shape)


def solve_norm(lifted: WidePiece) -> Answer | NotThat:
    """The norm that a piece is."""
    width = lifted.shape(lifted.cone.sources[0])[-1]
    gains = lifted.unknown
    if any(value(leaf).numel() != width for leaf in gains):
        return NotThat("it reads a number that is not known while compiling", near=True)
    if len(gains) > 1:
        return NotThat("it has two gains", near=True)
    rows = ProbedRows.of(lifted, gains, torch.Generator().manual_seed(1))
    return norm_of(rows, gains)


def norm_of(rows: ProbedRows, gains: list[fx.Node]) -> Answer | NotThat:
    """The norm, from what the rows become; errors as in `ProbedRows.at`."""
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
    if gains and not is_affine_far_away(rows, gains[0], line):
        return NotThat("its gain is not affine in its parameter", near=True)
    numbers = {"epsilon": float(f"{epsilon:.7g}"), "offset": line[0], "factor": line[1]}
    inputs = {"x": Slot(0)}
    if gains:
        inputs["gamma"] = Slot.of_leaf(rows.lifted.cone, gains[0])
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


def is_affine_far_away(rows: ProbedRows, parameter: fx.Node, line: tuple[float, float]) -> bool:
    """Whether a large negative parameter gives the gain of the same line."""
    given = {parameter: rows.given[parameter] * FAR_GAIN}
    x, y, mean = replace(rows, given=given).at(LARGE)
    wanted = line[0] + line[1] * given[parameter].reshape(1, -1)
    return near_enough(y * mean.sqrt() / x, wanted.expand_as(x))


def clean(number: float) -> float:
    """A number that was found by probing, without what probing adds."""
    return float(round(number)) if abs(number - round(number)) < 1e-6 else number


def holds_exactly(dtype: torch.dtype, number: float) -> bool:
    """Whether a dtype has this number."""
    return float(torch.tensor(number, dtype=dtype)) == number


def built_norm(
    x: Tensor, gamma: Tensor | None = None, *, epsilon: float, offset: float, factor: float
) -> Tensor:
    """The norm operator of rows [..., H] with the gain `offset + factor * gamma`."""
    if gamma is None:
        # 1 / sqrt(H), of rows over their length, would be off in each row if it were rounded.
        kind = x.dtype if holds_exactly(x.dtype, offset) else torch.float32
        every = torch.full((x.shape[-1],), offset, dtype=kind, device=x.device)
        scaled: Tensor = npu.npu_rms_norm(x, every, epsilon)[0]
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
