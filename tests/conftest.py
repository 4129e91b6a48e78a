"""What every test run says first."""

from __future__ import annotations

import pytest

from tests.soundness.today import VARIABLE, seed_of_the_day


def pytest_sessionstart(session: pytest.Session) -> None:
    """Also under `-q`, which leaves out pytest's own header."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        terminal.write_line(f"today's seed of tests/soundness: {VARIABLE}={seed_of_the_day()}")
