"""Says after the tests how long conformance took: it may take six minutes on an idle machine."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

MOST_SECONDS = 360
_spent: list[float] = []


def processor_seconds() -> float:
    """What the processes started so far, and this one, have computed; waiting does not count."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@pytest.fixture(autouse=True)
def processor_time() -> Iterator[None]:
    before = processor_seconds()
    yield
    _spent.append(processor_seconds() - before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    here = "tests/conformance/"
    found = [r for key in ("passed", "failed", "error") for r in terminalreporter.getreports(key)]
    elapsed = sum(report.duration for report in found if report.nodeid.startswith(here))
    terminalreporter.write_line(
        f"conformance: {elapsed:.0f} s elapsed, {sum(_spent):.0f} s of processor time, "
        f"of {MOST_SECONDS} s on an idle machine"
    )
