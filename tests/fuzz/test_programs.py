"""A sample of random programs that changes with the day; `python -m tests.fuzz` runs many."""

from __future__ import annotations

import datetime

import pytest

from tests.fuzz.check import REFUSED, RIGHT, TORCH, UNJUDGED, WRONG, check
from tests.fuzz.generate import generate
from tests.fuzz.minimize import minimize
from tests.fuzz.printing import printed
from tests.fuzz.workers import EXACT_SHARE

COUNT = 40
"""About a minute on one core."""
PARTS = 4
SECONDS = 60.0
"""A failing program is made smaller for so long."""
DAY = datetime.datetime.now(datetime.UTC).date().toordinal() % 10_000 * 1000
"""The first seed."""


@pytest.mark.parametrize("first", [DAY + part * COUNT // PARTS for part in range(PARTS)])
def test_programs_of_the_day(first, capsys):
    with capsys.disabled():
        print(f" programs {first} to {first + COUNT // PARTS - 1}", end=" ")
    for seed in range(first, first + COUNT // PARTS):
        program, formulas = generate(seed), seed % EXACT_SHARE == 0
        verdict = check(program, formulas)
        if verdict.kind == WRONG:
            small = minimize(program, verdict, SECONDS)
            told = "\n".join([f"python -m tests.fuzz --seed {seed} --count 1", *verdict.lines])
            pytest.fail(f"{told}\n{printed(small)}", pytrace=False)
        assert verdict.kind in (RIGHT, REFUSED, TORCH, UNJUDGED), f"seed {seed}: {verdict.lines}"
