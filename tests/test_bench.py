"""What the benchmark on several GPUs makes of its measurements."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.bench.crossing_bars import Crossing, Row, bar_lines, bars, crossing, table, within
from tests.bench.device_timing import repeats_for, spread

SIZES = (256, 1024, 4096, 16384)
Figure = Callable[[int], float]


def measured(
    real: Figure, decided: Figure, noise: float = 0.0, sizes: Iterable[int] = SIZES
) -> list[Row]:
    """Rows of a plan of one millisecond, and of FlashComm with these differences from it."""
    rows = []
    for tokens in sizes:
        rows.append(Row(2, "prefill", tokens, "ascend_dense", 1.0, 1.0 - noise, 1.0 + noise))
        time = 1.0 + real(tokens)
        rows.append(
            Row(
                2,
                "prefill",
                tokens,
                "flashcomm",
                time,
                time - noise,
                time + noise,
                decided_without=1.0,
                decided_with=1.0 + decided(tokens),
            )
        )
    return rows


def pays_from(turn: int) -> Figure:
    """A difference that is zero at `turn` tokens and falls with each."""
    return lambda tokens: (turn - tokens) * 1e-5


def test_a_prediction_that_is_right_holds() -> None:
    (found,) = bars(measured(pays_from(2000), pays_from(2500)))
    assert found["holds"] is True
    assert found["turned_on_at"] == [4096, 16384]
    assert found["slower_at"] == []
    assert found["measured_crossing"] == "2000" and found["predicted_crossing"] == "2500"
    assert found["ratio"] == "1.25"


def test_flashcomm_that_is_slower_where_it_was_turned_on_breaks_the_bar() -> None:
    rows = measured(pays_from(8000), pays_from(2500), noise=0.001)
    (found,) = bars(rows)
    assert [case["tokens"] for case in found["slower_at"]] == [4096]
    assert found["never_slower_where_turned_on"] is False
    assert found["crossing_within_ratio"] is False  # 8000 against 2500
    assert found["holds"] is False
    text = "\n".join(bar_lines([found]))
    assert "slower at 4096 tokens" in text and "BROKEN" in text


def test_slower_within_the_spread_is_not_slower() -> None:
    rows = measured(pays_from(4200), pays_from(2500), noise=0.01)
    (found,) = bars(rows)
    assert found["turned_on_at"] == [4096, 16384]
    assert found["slower_at"] == [] and found["holds"] is True


def test_a_crossing_beyond_twice_the_prediction_breaks_the_bar_alone() -> None:
    (found,) = bars(measured(pays_from(500), pays_from(3000)))
    assert found["never_slower_where_turned_on"] is True
    assert found["crossing_within_ratio"] is False and found["holds"] is False


def test_flashcomm_behind_inductor_breaks_the_bar() -> None:
    rows = measured(pays_from(2000), pays_from(2500))
    (found,) = bars([*rows, Row(2, "prefill", 4096, "inductor", 9.0, 9.0, 9.0)])
    assert found["compared_with_inductor_at"] == [4096] and found["holds"] is True
    (found,) = bars([*rows, Row(2, "prefill", 4096, "inductor", 0.1, 0.1, 0.1)])
    assert found["behind_inductor_at"] == [4096] and found["holds"] is False
    assert "behind it at 4096" in "\n".join(bar_lines([found]))


def test_a_run_without_the_crossing_tells_nothing() -> None:
    (found,) = bars(measured(lambda tokens: 1.0, lambda tokens: 1.0))
    assert found["measured_crossing"] == found["predicted_crossing"] == "above 16384"
    assert found["never_slower_where_turned_on"] is None  # it was turned on nowhere
    assert found["holds"] is None


def test_a_variant_that_failed_leaves_no_verdict_and_is_listed() -> None:
    rows = [Row(2, "prefill", 256, "ascend_dense", 1.0, 1.0, 1.0)]
    rows.append(Row(2, "prefill", 256, "flashcomm", failed="RuntimeError: out of memory"))
    (found,) = bars(rows)
    assert found["sizes"] == [] and found["holds"] is None
    assert "failed: RuntimeError: out of memory" in table(rows)


def test_sizes_that_leave_rows_over_have_a_crossing_of_their_own() -> None:
    rows = measured(pays_from(2000), pays_from(2500))
    rows += measured(pays_from(7001), pays_from(2501), sizes=[size + 1 for size in SIZES])
    divided, padded = bars(rows)
    assert (divided["padded"], divided["measured_crossing"]) == (False, "2000")
    assert (padded["padded"], padded["measured_crossing"]) == (True, "7001")
    assert divided["holds"] is True and padded["holds"] is False
    assert "padded" not in bar_lines([divided])[0] and "padded" in bar_lines([padded])[0]


def test_one_process_has_no_bars() -> None:
    assert bars([Row(1, "prefill", 256, "flashcomm", 1.0, 1.0, 1.0)]) == []


@pytest.mark.parametrize(
    ("points", "low", "high"),
    [
        ([(10, 1.0), (20, -1.0)], 15, 15),
        ([(20, -1.0), (10, 3.0)], 17.5, 17.5),
        ([(10, -1.0), (20, 1.0), (40, -1.0)], 30, 30),
        ([(10, -1.0), (20, -1.0)], 0, 10),
        ([(10, 1.0), (20, 0.0)], 20, math.inf),
    ],
)
def test_crossing(points: list[tuple[int, float]], low: float, high: float) -> None:
    assert crossing(points) == Crossing(low, high)


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (Crossing(100, 100), Crossing(200, 200), True),
        (Crossing(100, 100), Crossing(201, 201), False),
        (Crossing(201, 201), Crossing(100, 100), False),
        (Crossing(1000, math.inf), Crossing(499, 499), False),
        (Crossing(1000, math.inf), Crossing(501, 501), None),
        (Crossing(0, 16), Crossing(33, 33), False),
        (Crossing(0, 16), Crossing(31, 31), None),
        (Crossing(0, 16), Crossing(1000, math.inf), False),
        (Crossing(0, 16), None, None),
    ],
)
def test_within(one: Crossing, other: Crossing | None, verdict: bool | None) -> None:
    assert within(one, other) is verdict


def test_rounds_take_about_a_tenth_of_a_second() -> None:
    assert [repeats_for(ms) for ms in (0.1, 10, 20, 50, 900)] == [10, 10, 5, 2, 2]


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"milliseconds": 2.0, "low": 1.0, "high": 3.0}


def test_two_ranks_measure_and_report_in_time(tmp_path: Path) -> None:
    script = Path(__file__).parent / "bench" / "multi_gpu.py"
    command = [sys.executable, str(script), "--device", "cpu", "--small", "--worlds", "2"]
    command += ["--layers", "1", "--tokens", "16,decode4", "--seconds", "150"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )
    rows = [Row(**row) for row in json.loads((tmp_path / "results.json").read_text())]
    assert not any(row.failed for row in rows), run.stdout + run.stderr
    assert {(row.kind, row.variant) for row in rows} == {
        ("prefill", "eager"),
        ("prefill", "ascend_dense"),
        ("prefill", "flashcomm"),
        ("prefill", "flashcomm+mm_rs"),
        ("decode", "eager"),
        ("decode", "ascend_dense"),
        ("decode", "captured"),
    }
    by_name = {(row.kind, row.variant): row for row in rows}
    assert by_name["decode", "captured"].captured is True
    plain, sharded, fused = (
        by_name["prefill", name] for name in ("ascend_dense", "flashcomm", "flashcomm+mm_rs")
    )
    assert sharded.sent_bytes < plain.sent_bytes
    assert sharded.predicted != fused.predicted  # of its own finished graph, not of the other's
    records = json.loads((tmp_path / "bars.json").read_text())
    assert [found["variant"] for found in records] == ["flashcomm", "flashcomm+mm_rs"]
