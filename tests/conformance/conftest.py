"""Says after the tests how long conformance took: it may take six minutes on an idle machine."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator

import pytest

MOST_SECONDS = 360
SPENT = "processor_seconds"
"""The property of a test under which the process that ran it says what it took."""


def processor_seconds() -> float:
    """What the processes started so far, and this one, have computed; waiting does not count."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@pytest.fixture(autouse=True)
def processor_time(record_property: Callable[[str, object], None]) -> Iterator[None]:
    before = processor_seconds()
    yield
    record_property(SPENT, processor_seconds() - before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    here = "tests/conformance/"
    found = [r for key in ("passed", "failed", "error") for r in terminalreporter.getreports(key)]
    found = [report for report in found if report.nodeid.startswith(here)]
    elapsed = sum(report.duration for report in found)
    properties = [pair for r in terminalreporter.getreports("") for pair in r.user_properties]
    spent = sum(seconds for name, seconds in properties if name == SPENT)
    terminalreporter.write_line(
        f"conformance: {elapsed:.0f} s elapsed, {spent:.0f} s of processor time, "
        f"of {MOST_SECONDS} s on an idle machine"
    )
