"""`bench comm` and `tune`: the figures that they print, write and draw."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ascend_passes.__main__ import main
from ascend_passes.cli.bench_comm import TOKENS
from ascend_passes.cli.dense_layers import Sizes
from ascend_passes.cli.measure import latency_and_hop
from ascend_passes.cli.tune import ratio_text, step_times
from ascend_passes.cost import profiles

PLANS = ("all_reduce", "all_reduce, fused", "flashcomm", "flashcomm, fused")


def table(text: str) -> dict[tuple[int, str], tuple[str, float, int, float]]:
    """(tokens, plan) -> collectives, MiB sent, rows normalised, milliseconds."""
    rows = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {
        (int(tokens), plan): (collectives, float(sent), int(normed), float(milliseconds))
        for tokens, plan, collectives, sent, normed, milliseconds in cells
    }


def test_bench_comm_counts_each_plan_at_each_size(capsys: Any) -> None:
    assert main(["bench", "comm", "--ranks", "4"]) == 0
    text = capsys.readouterr().out
    found = table(text)
    assert set(found) == {(tokens, plan) for tokens in TOKENS for plan in PLANS}
    assert (min(TOKENS), max(TOKENS)) == (1, 16384)
    for tokens in (256, 2048):
        half, whole = tokens * Sizes().hidden * 2, tokens * (Sizes().hidden + 4)
        sums, sharded = 2 * 2 * half * 3 / 4 / 2**20, 2 * (half + whole) * 3 / 4 / 2**20
        for plan in PLANS:
            collectives, sent, normed, _ = found[tokens, plan]
            apart = "4 all_gather" if plan == "flashcomm" else "2 all_gather"
            flashcomm = plan.startswith("flashcomm")
            assert collectives == (f"{apart}, 2 reduce_scatter" if flashcomm else "2 all_reduce")
            assert sent == pytest.approx(sharded if flashcomm else sums, abs=5e-4)
            assert normed == (2 * tokens / 4 if flashcomm else 2 * tokens)
    assert found[16384, "flashcomm"][3] < found[16384, "all_reduce"][3]
    assert found[1, "flashcomm"][3] > found[1, "all_reduce"][3]
    assert "flashcomm, fused: pays from" in text


def test_tune_writes_a_profile_that_the_option_takes(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    assert main(["tune", "--device", "cpu", "--ranks", "2", "--out", str(path)]) == 0
    found = profiles.read_profile(str(path))
    assert found.name == "mine" and "float32" in found.matmul_rates
    figures = json.loads(path.read_text())
    rates = [figures["memory_bandwidth"], figures["link_bandwidth"], *found.matmul_rates.values()]
    assert all(0 < rate < 1e15 for rate in rates)
    hop = found.collective_latency + found.hop_latency
    assert all(0 < seconds < 1 for seconds in (found.matmul_launch, found.vector_launch, hop))
    assert set(found.collective_times) == {"all_reduce", "reduce_scatter", "all_gather"}
    for points in found.collective_times.values():
        (least, soon), *_, (most, late) = points
        assert least < most and 0 < soon < late < 60
    said = capsys.readouterr().out
    assert str(path) in said
    rows = [line.split() for line in said.splitlines() if line.startswith((" float32", " memory"))]
    for row, old, new in zip(
        rows,
        (profiles.ATLAS_800_A2.matmul_rates["float32"], profiles.ATLAS_800_A2.memory_bandwidth),
        (found.matmul_rates["float32"], found.memory_bandwidth),
        strict=True,
    ):
        assert [float(word) for word in row[-3:]] == pytest.approx([old, new, new / old], rel=0.06)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [(2.0, 3.0, "1.5"), (0.0, 3.0, ""), (None, 3.0, ""), (2.0, None, ""), (2.0, math.inf, "")],
)
def test_a_change_of_nothing_has_no_ratio(old: Any, new: Any, text: str) -> None:
    assert ratio_text(old, new) == text


@pytest.mark.parametrize(
    ("one", "two", "latency", "hop"),
    [(10, 16, 4, 6), (10, 10, 10, 0), (10, 9, 10, 0), (10, 25, 0, 10)],
)
def test_latency_and_hops_add_up_to_what_was_measured(
    one: float, two: float, latency: float, hop: float
) -> None:
    assert latency_and_hop(one, two) == (latency, hop)


def test_tune_draws_the_crossing(capsys: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "curve.png"
    assert main(["tune", "--profile", "atlas-800-a2", "--plot", str(path)]) == 0
    assert f"drawn in {path}" in capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")
    (axis,) = step_times("atlas-800-a2", ranks=4).axes
    before, after, line = axis.get_lines()
    crossing = line.get_xdata()[0]
    assert line.get_label() == f"crossing: {crossing} tokens"
    for tokens, slow, fast in zip(
        before.get_xdata(), before.get_ydata(), after.get_ydata(), strict=True
    ):
        assert (fast < slow) == (tokens >= crossing)
