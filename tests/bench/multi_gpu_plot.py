"""Milliseconds against tokens, measured and estimated, a panel for each world size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossing_bars import PLAIN, Row


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the prefill rows, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no matplotlib here; run --report on a machine that has it")
        return
    prefill = [row for row in rows if row.kind == "prefill" and row.milliseconds is not None]
    worlds = sorted({row.world for row in prefill})
    figure = Figure(figsize=(6 * max(1, len(worlds)), 5))
    for index, world in enumerate(worlds):
        axis = figure.add_subplot(1, len(worlds), index + 1)
        for variant in dict.fromkeys(row.variant for row in prefill):
            line = sorted(
                (row for row in prefill if row.world == world and row.variant == variant),
                key=lambda row: row.tokens,
            )
            tokens = [row.tokens for row in line]
            axis.errorbar(
                tokens,
                [row.milliseconds for row in line],
                yerr=[
                    [row.milliseconds - row.low for row in line],
                    [row.high - row.milliseconds for row in line],
                ],
                marker="o",
                label=variant,
            )
            estimated = [row for row in line if row.predicted is not None]
            if estimated:
                axis.plot(
                    [row.tokens for row in estimated],
                    [row.predicted for row in estimated],
                    "k:" if variant == PLAIN else "k--",
                    label=f"estimate, {variant}",
                )
        axis.set(
            xscale="log", yscale="log", xlabel="tokens", ylabel="ms per step", title=f"tp {world}"
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
