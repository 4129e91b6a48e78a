"""Milliseconds against tokens, and FlashComm beside the plan without it: measured, estimated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossing_bars import PLAIN, SHARDED, Row


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the prefill rows, a column for each world size, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no matplotlib here; run --report on a machine that has it")
        return
    prefill = [row for row in rows if row.kind == "prefill" and row.milliseconds is not None]
    worlds = sorted({row.world for row in prefill}) or [1]
    figure = Figure(figsize=(6 * len(worlds), 9))
    panels = figure.subplots(2, len(worlds), squeeze=False)
    for world, times, ratios in zip(worlds, *panels, strict=True):
        own = sorted((row for row in prefill if row.world == world), key=lambda row: row.tokens)
        draw_times(times, own)
        draw_ratios(ratios, own)
        times.set(xscale="log", yscale="log", ylabel="ms per step", title=f"tp {world}")
        ratios.set(xscale="log", xlabel="tokens", ylabel="time over that without FlashComm")
        for axis in (times, ratios):
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def draw_times(axis: Any, rows: Sequence[Row]) -> None:
    """Each variant's milliseconds with the spread of the rounds; estimates of finished graphs."""
    for variant in dict.fromkeys(row.variant for row in rows):
        line = [row for row in rows if row.variant == variant]
        below = [row.milliseconds - row.low for row in line]  # type: ignore[operator]
        above = [row.high - row.milliseconds for row in line]  # type: ignore[operator]
        tokens, found = [row.tokens for row in line], [row.milliseconds for row in line]
        axis.errorbar(tokens, found, yerr=[below, above], marker="o", label=variant)
        estimated = [row for row in line if row.predicted is not None]
        if estimated:
            style = "k:" if variant == PLAIN else "k--"
            tokens, found = zip(*((row.tokens, row.predicted) for row in estimated), strict=True)
            axis.plot(tokens, found, style, label=f"estimate, {variant}")


def draw_ratios(axis: Any, rows: Sequence[Row]) -> None:
    """FlashComm's time over that of the plan without it; crosses where rows are padded."""
    plain = {row.tokens: row.milliseconds for row in rows if row.variant == PLAIN}
    axis.axhline(1.0, color="k", linewidth=0.8)
    for number, variant in enumerate(SHARDED):
        line = [row for row in rows if row.variant == variant and row.tokens in plain]
        for style, padded in (("o-", False), ("x", True)):
            own = [row for row in line if row.padded == padded]
            found = [row.milliseconds / plain[row.tokens] for row in own]  # type: ignore[operator]
            label = f"{variant}, padded" if padded else variant
            axis.plot([row.tokens for row in own], found, style, color=f"C{number}", label=label)
    decided = [row for row in rows if row.variant == SHARDED[0] and row.decided_with is not None]
    for style, padded in (("k--", False), ("kx", True)):
        own = [row for row in decided if row.padded == padded]
        found = [row.decided_with / row.decided_without for row in own]  # type: ignore[operator]
        label = "estimate" + ", padded" * padded
        axis.plot([row.tokens for row in own], found, style, label=label)
