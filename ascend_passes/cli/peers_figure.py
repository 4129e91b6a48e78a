"""The plot of `bench peers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ascend_passes.cli.bench_peers import Peer


def peers_figure(peers: Sequence[Peer], title: str) -> Figure:
    """A bar for each peer and step; a line over it from the least to the most of the rounds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    steps = {"prompt": "the prompt", "token": "a token"}
    for axis, (step, said) in zip(figure.subplots(1, 2, sharey=True), steps.items(), strict=True):
        middles = [getattr(one, step) for one in peers]
        low, high = zip(*(getattr(one, f"{step}_range") for one in peers), strict=True)
        spread = [
            [middle - least for middle, least in zip(middles, low, strict=True)],
            [most - middle for middle, most in zip(middles, high, strict=True)],
        ]
        bars = axis.barh([one.name for one in peers], middles, xerr=spread, capsize=3)
        axis.bar_label(bars, fmt="%.2f", padding=4)
        axis.set(xlabel=f"milliseconds of {said}")
        axis.margins(x=0.2)
    axis.invert_yaxis()
    return figure
