"""Rows of measurements, and whether FlashComm kept what its cost model promised: plain functions.

A crossing point is the number of tokens from which FlashComm takes less time than the plan without
it. It lies between two measured sizes, or is only bounded by the smallest or the largest of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PLAIN, INDUCTOR = "ascend_dense", "inductor"
SHARDED = ("flashcomm", "flashcomm+mm_rs")
LARGEST_RATIO = 2.0
"""Between the measured and the predicted crossing point."""
PREDICTED_FROM = "the compiler's decisions, taken before norms and matmuls are fused"
"""What turns FlashComm on, in either form. The estimates of finished graphs stand beside it: they
take fused matmuls to overlap with their collectives, which only an NPU's kernels do."""


@dataclass
class Row:
    """One variant at one size; times are milliseconds of a step."""

    world: int
    kind: str
    tokens: int
    variant: str
    milliseconds: float | None = None
    low: float | None = None
    """The least and the most of the rounds, each as slow as its slowest rank."""
    high: float | None = None
    error: float | None = None
    replayed: bool = False
    """Timed as a replay of a device graph that the benchmark captured."""
    captured: bool | None = None
    """Whether `ascend_dense` itself replayed one graph in each step; None where it was not asked
    to."""
    sent_bytes: float | None = None
    decided_without: float | None = None
    """What the compiler decided on for FlashComm: its estimates without it and with it, before
    norms and matmuls are fused."""
    decided_with: float | None = None
    predicted: float | None = None
    """The cost model's milliseconds of the finished graph."""
    failed: str = ""

    @property
    def padded(self) -> bool:
        """Whether the ranks leave rows over, which FlashComm pads."""
        return self.tokens % self.world != 0

    @property
    def turned_on(self) -> bool:
        """Whether the cost model would use FlashComm here."""
        if self.decided_with is None or self.decided_without is None:
            return False
        return self.decided_with < self.decided_without


@dataclass(frozen=True)
class Crossing:
    """Where the crossing point lies, in tokens: a point where low equals high, else an interval."""

    low: float
    high: float

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:.0f}"
        return f"{self.low:.0f}" if self.low == self.high else f"at most {self.high:.0f}"


def crossing(points: Iterable[tuple[int, float]]) -> Crossing | None:
    """Where a difference turns negative for good, interpolated; None without points."""
    ordered = sorted(points)
    if not ordered:
        return None
    if ordered[-1][1] >= 0:
        return Crossing(ordered[-1][0], math.inf)
    for (low, before), (high, after) in reversed(list(itertools.pairwise(ordered))):
        if before >= 0 > after:
            point = low + (high - low) * before / (before - after)
            return Crossing(point, point)
    return Crossing(0, ordered[0][0])


def ratios(one: Crossing, other: Crossing) -> tuple[float, float]:
    """The least and the largest factor between two crossing points, at least 1."""
    if one.low <= other.high and other.low <= one.high:
        least = 1.0
    else:
        below, above = sorted((one, other), key=lambda found: found.low)
        least = above.low / below.high
    ends = ((one.high, other.low), (other.high, one.low))
    most = max(high / low if low and high < math.inf else math.inf for high, low in ends)
    return least, max(1.0, most)


def within(one: Crossing | None, other: Crossing | None) -> bool | None:
    """Whether the two points lie within `LARGEST_RATIO`; None where the sizes do not tell."""
    if one is None or other is None:
        return None
    least, most = ratios(one, other)
    return True if most <= LARGEST_RATIO else False if least > LARGEST_RATIO else None


def bars(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A record for each world size, form of FlashComm, and sizes that the ranks divide or do not.

    Sizes that leave rows over are padded and have a crossing of their own. A record has the bars
    and what they rest on: `holds` is true where all hold, false where one is broken, None where
    the run does not tell. Inductor compiles the layers without FlashComm.
    """
    found = []
    for world in sorted({row.world for row in rows if row.world > 1}):
        prefill = [row for row in rows if row.world == world and row.kind == "prefill"]
        for padded, variant in itertools.product((False, True), SHARDED):
            own = [row for row in prefill if row.padded == padded]
            if any(row.variant == variant for row in own):
                measured = [row for row in own if row.milliseconds is not None]
                found.append(bar(measured, world, variant, padded))
    return found


def bar(rows: Sequence[Row], world: int, variant: str, padded: bool) -> dict[str, Any]:
    """The record of one form of FlashComm; `rows` are measured prefill rows of one world size."""
    plain = {row.tokens: row for row in rows if row.variant == PLAIN}
    pairs = [
        (row, plain[row.tokens])
        for row in sorted(rows, key=lambda row: row.tokens)
        if row.variant == variant and row.tokens in plain
    ]
    slower = [record(row, base) for row, base in pairs if row.turned_on and is_slower(row, base)]
    seen = crossing((row.tokens, row.milliseconds - base.milliseconds) for row, base in pairs)
    early = crossing((row.tokens, row.low - base.high) for row, base in pairs)
    late = crossing((row.tokens, row.high - base.low) for row, base in pairs)
    promised = crossing(
        (row.tokens, row.decided_with - row.decided_without)
        for row, _ in pairs
        if row.decided_with is not None and row.decided_without is not None
    )
    finished = crossing(
        (row.tokens, row.predicted - base.predicted)
        for row, base in pairs
        if row.predicted is not None and base.predicted is not None
    )
    close = within(seen, promised)
    on = [row.tokens for row, _ in pairs if row.turned_on]
    peer = {row.tokens: row for row in rows if row.variant == INDUCTOR}
    compared = [row for row, _ in pairs if row.turned_on and row.tokens in peer]
    behind = [row.tokens for row in compared if is_slower(row, peer[row.tokens])]
    verdicts = (not slower if on else None, close, *([not behind] if compared else []))
    return {
        "world": world,
        "variant": variant,
        "padded": padded,
        "sizes": [row.tokens for row, _ in pairs],
        "turned_on_at": on,
        "slower_at": slower,
        "compared_with_inductor_at": [row.tokens for row in compared],
        "behind_inductor_at": behind,
        "measured_crossing": text(seen),
        "measured_crossing_by_spread": [text(early), text(late)],
        "predicted_crossing": text(promised),
        "predicted_from": PREDICTED_FROM,
        "finished_graph_crossing": text(finished),
        "ratio": ratio_text(seen, promised),
        "largest_ratio": LARGEST_RATIO,
        "never_slower_where_turned_on": verdicts[0],
        "crossing_within_ratio": close,
        "holds": False if False in verdicts else None if None in verdicts else True,
    }


def is_slower(row: Row, base: Row) -> bool:
    """Slower beyond the spread: its fastest round takes longer than the slowest without it."""
    return row.low > base.high


def record(row: Row, base: Row) -> dict[str, float]:
    """A size at which FlashComm was slower."""
    return {"tokens": row.tokens, "low_with": row.low, "high_without": base.high}


def ratio_text(one: Crossing | None, other: Crossing | None) -> str:
    """The factor between two crossing points, or its bounds."""
    if one is None or other is None:
        return "unknown"
    least, most = ratios(one, other)
    if least == most:
        return f"{least:.2f}"
    return f"at least {least:.2f}" + (f", at most {most:.2f}" if most < math.inf else "")


def text(found: Crossing | None) -> str:
    """A crossing point in words."""
    return "unknown" if found is None else str(found)


def table(rows: Sequence[Row]) -> str:
    """All measurements in columns, and a line for each failure."""
    head = f"{'tp':>2} {'kind':<8}{'tokens':>7} {'variant':<17}{'ms':>9}{'low':>9}{'high':>9}"
    head += f"{'error':>8}{'sent MiB':>10}{'model ms':>10}{'decided without, with':>23}"
    lines = [head]
    for row in sorted(rows, key=lambda row: (row.world, row.kind, row.tokens)):
        place = f"{row.world:>2} {row.kind:<8}{row.tokens:>7} {row.variant:<17}"
        if row.failed:
            lines.append(f"{place} failed: {row.failed}")
            continue
        times = "".join(number(t, 9, 3) for t in (row.milliseconds, row.low, row.high))
        sent = None if row.sent_bytes is None else row.sent_bytes / 2**20
        decided = number(row.decided_without, 13, 3) + number(row.decided_with, 10, 3)
        figures = number(row.error, 8, 4) + number(sent, 10, 2) + number(row.predicted, 10, 3)
        own = {True: "captured", False: "uncaptured", None: "-"}[row.captured]
        graph = "replayed" if row.replayed else own
        lines.append(place + times + figures + decided + f"{graph:>11}")
    return "\n".join(lines)


def number(figure: float | None, width: int, digits: int) -> str:
    """A right-aligned number, or a dash."""
    return f"{'-':>{width}}" if figure is None else f"{figure:{width}.{digits}f}"


def bar_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    """The bars for people."""
    words = {True: "holds", False: "BROKEN", None: "not told by this run"}
    lines = []
    for found in records:
        name = f"tp {found['world']} {found['variant']}" + ", padded" * found["padded"]
        lines.append(
            f"{name}: pays from {found['measured_crossing']} tokens measured "
            f"({' to '.join(found['measured_crossing_by_spread'])} by the spread), "
            f"{found['predicted_crossing']} predicted; ratio {found['ratio']}: "
            f"{words[found['crossing_within_ratio']]}"
        )
        on = ", ".join(map(str, found["turned_on_at"])) or "no size"
        verdict = words[found["never_slower_where_turned_on"]]
        lines.append(f"{name}: turned on at {on}; never slower there: {verdict}")
        if found["compared_with_inductor_at"]:
            sizes = ", ".join(map(str, found["compared_with_inductor_at"]))
            late = ", ".join(map(str, found["behind_inductor_at"])) or "no size"
            lines.append(f"{name}: beside Inductor at {sizes}; behind it at {late}")
        for case in found["slower_at"]:
            lines.append(
                f"  slower at {case['tokens']} tokens: {case['low_with']:.3f} ms at best, "
                f"{case['high_without']:.3f} ms at worst without it"
            )
    return lines
