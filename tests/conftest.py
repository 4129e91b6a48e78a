"""What every test run says first."""

from __future__ import annotations

from tests.soundness.today import VARIABLE, seed_of_the_day


def pytest_report_header() -> str:
    return f"soundness: today's seed, {VARIABLE}={seed_of_the_day()}"
