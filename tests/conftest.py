"""What a run says first, and how its tests are spread over processes.

A file is one piece of work, so that its fixtures are made once; a folder whose fixtures take
minutes is one as well, and comes first, so that nobody waits for it in the end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tests.soundness.today import VARIABLE, seed_of_the_day

os.environ.setdefault("ASCEND_PASSES_VERIFY_EACH_STAGE", "1")  # here and in what tests start
sys.path.append(str(Path(sys.prefix) / "public"))  # .ci/public.txt; behind all that is installed
OWN_PROCESS = (
    "commands",
    "conformance",
    "distributed",
    "fuzz",
    "models",
    "public",
    "soundness",
    "test_bench.py",
    "test_commands.py",
    "test_communication_commands.py",
    "test_release.py",
    "test_site.py",
    "test_tutorials.py",
    "test_start.py",
    "vllm",
)
"""Folders and files whose tests start processes, or take minutes; `make check` leaves them out."""
WHOLE_FOLDERS = ("vllm", "conformance")
"""They install an environment each, and start engines that several files look at."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Also under `-q`, which leaves out pytest's own header."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        terminal.write_line(f"today's seed of tests/soundness: {VARIABLE}={seed_of_the_day()}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: group(item.nodeid) not in WHOLE_FOLDERS)
    for item in items:
        if folder(item.nodeid) in OWN_PROCESS:
            item.add_marker("own_process")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a process one group of tests after the other; only where pytest-xdist is there."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)


def group(nodeid: str) -> str:
    """What a test is run together with: its folder, or the tests of its file."""
    return folder(nodeid) if folder(nodeid) in WHOLE_FOLDERS else nodeid.partition("::")[0]


def folder(nodeid: str) -> str:
    """The folder inside `tests` that a test lies in, or its file."""
    return PurePosixPath(nodeid.partition("::")[0]).relative_to("tests").parts[0]
