"""What a run says first, and how its tests are spread over processes.

A file is one piece of work, so that its fixtures are made once; a folder whose fixtures take
minutes is one as well, and comes first, so that nobody waits for it in the end.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soundness.today import VARIABLE, seed_of_the_day

HERE = Path(__file__).parent
WHOLE_FOLDERS = ("vllm", "conformance")
"""They install an environment each, and start engines that several files look at."""
SINGLE_TESTS = ("test_rules.py",)
"""Files whose tests share nothing and take minutes together."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Also under `-q`, which leaves out pytest's own header."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        terminal.write_line(f"today's seed of tests/soundness: {VARIABLE}={seed_of_the_day()}")


@pytest.hookimpl(tryfirst=True)  # the groups are read by a hook of xdist
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name not in SINGLE_TESTS:
            item.add_marker(pytest.mark.xdist_group(group(item.path)))
    items.sort(key=lambda item: group(item.path) not in WHOLE_FOLDERS)


def group(file: Path) -> str:
    """What a file is run together with: the folder, or itself alone."""
    folder = file.relative_to(HERE).parts[0]
    return folder if folder in WHOLE_FOLDERS else str(file.relative_to(HERE))
