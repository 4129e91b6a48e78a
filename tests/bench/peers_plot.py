"""Times of peers over the floor, drawn; also from a file that `peers.py` wrote.

python tests/bench/peers_plot.py build/peers.json build/peers.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


def over_the_floor(rows: Sequence[Row], peer: str, which: str = "milliseconds") -> list[float]:
    """A peer's time in each step over that step's floor: the median, `low` or `high`."""
    return [row[which][peer] / row["floor"] for row in rows]


def figure_of(rows: Sequence[Row], title: str) -> Figure:
    """A group of bars for each step, one for each peer but eager; a line over a bar from the least
    to the most of the rounds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axis = figure.subplots()
    peers = [peer for peer in rows[0]["milliseconds"] if not peer.startswith("eager")]
    width = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        middle, low, high = (
            over_the_floor(rows, peer, which) for which in ("milliseconds", "low", "high")
        )
        spread = [
            [m - least for m, least in zip(middle, low, strict=True)],
            [most - m for m, most in zip(middle, high, strict=True)],
        ]
        places = [place - 0.4 + width * (number + 0.5) for place in range(len(rows))]
        axis.bar(places, middle, width, yerr=spread, label=peer)
    axis.axhline(1.0, color="k", linewidth=0.8)
    axis.set_xticks(range(len(rows)), [f"{row['step']} {row['tokens']}" for row in rows])
    axis.set(ylabel="time over the floor", title=title)
    axis.legend(fontsize=8)
    return figure


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw what `peers.json` holds, where matplotlib is installed."""
    first = found["rows"][0]
    title = (
        f"{first['layers']} layers of Qwen3-32B's sizes, {found['card']}, torch {found['torch']}"
    )
    try:
        figure = figure_of(found["rows"], title)
    except ImportError:
        print("no matplotlib here; draw peers.json on a machine that has it")
        return
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: peers_plot.py PEERS.JSON PLOT.PNG")
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
