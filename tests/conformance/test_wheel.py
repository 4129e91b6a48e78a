"""The real torch_npu, without an NPU: each file in `inside/` runs in a process with the wheel.

The tests themselves are there; here they are started, one process for each file, and their output
is shown where one fails.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance import build

CHECKS = sorted(path.stem for path in (build.HERE / "inside").glob("check_*.py"))
STRUCTURE_ALONE = {"check_outputs"}
"""Files that want the wheel's own operators with kernels that compute nothing."""
SECONDS = 240
"""Longest time of one file; all of them together take about three minutes."""


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment in which `import torch_npu` works; skipped only without a registry."""
    try:
        return build.environment()
    except build.RegistryError as error:
        pytest.skip(str(error))


def run(
    environment: dict[str, str], *words: str | Path, **extra: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env={**environment, **extra},
        cwd=build.ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("check", CHECKS)
def test_inside(environment, check):
    file = build.HERE / "inside" / f"{check}.py"
    options = (
        "-o",
        "addopts=",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "python_files=check_*.py",
        "-rs",
    )
    extra = {"STANDIN_EMPTY_KERNELS": "1"} if check in STRUCTURE_ALONE else {}
    done = run(environment, "-m", "pytest", *options, file, **extra)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_the_table_has_no_failure():
    assert "**no**" not in (build.ROOT / "docs" / "conformance.md").read_text()


def test_the_table_is_up_to_date(environment):
    done = run(environment, "-m", "tests.conformance.inside.table", "--check")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_a_kernel_without_behaviour_fails_by_name(environment):
    script = "import torch, torch_npu; x = torch.ones(2).npu(); x + x"
    done = run(environment, "-c", script)
    assert done.returncode != 0
    assert "aclnnAdd has no behaviour here" in done.stderr
