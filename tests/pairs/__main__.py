"""Chosen tests in an environment of each pair of versions but the one that `make test` uses.

    python -m tests.pairs [PAIR ...]

Ends in 1 where a test failed in one of them; all are run in any case. An environment that cannot be
made, since a registry lacks a package, is said in a line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from ascend_passes.support import CURRENT, PAIRS, Pair
from tests.pairs import environment

WHEEL = ("check_doctor", "check_legality", "check_npugraph_ex", "check_operators", "check_outputs")
"""The files of `tests/conformance/inside` that ask what differs between releases of torch_npu."""
CHOSEN = (
    "tests/models/test_counts.py",
    "tests/test_backend.py",
    "tests/test_match.py",
    "tests/test_rewrite.py",
    "tests/passes",
    *(f"tests/conformance/test_wheel.py::test_inside[{check}]" for check in WHEEL),
)
"""What says most about a version in a few minutes: graphs as this torch makes them fuse as often as
elsewhere, the backend in all its modes, the passes alone, and torch_npu's operators beside ours."""
BESIDE_VLLM = ("tests/pairs/check_plugin.py", "tests/pairs/check_layers.py")


def main(names: list[str]) -> int:
    """0 where every test passed with every pair."""
    pairs = [pair for pair in PAIRS if pair.name in (names or {p.name for p in PAIRS} - {CURRENT})]
    return max(passed(pair) for pair in pairs)


def passed(pair: Pair) -> int:
    """0 where the chosen tests pass with a pair."""
    began = time.monotonic()
    try:
        interpreter = environment.make(pair)
    except subprocess.CalledProcessError as error:
        print(f"{pair.name}: not tested, for its environment cannot be made here: {error}")
        return 0
    print(f"{pair.name}: torch {pair.torch}, made in {time.monotonic() - began:.0f} s", flush=True)
    chosen = (*CHOSEN, *(BESIDE_VLLM if pair.vllm_ascend else ()))
    status = run(interpreter, *chosen)
    print(f"{pair.name}: ended with {status} after {time.monotonic() - began:.0f} s", flush=True)
    return status


def run(interpreter: Path, *words: str) -> int:
    """The exit status of pytest in an environment."""
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(environment.ROOT),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    }
    how = ("-n", "2", "--no-loadscope-reorder", "-p", "no:cacheprovider", "--durations=10")
    command = [str(interpreter), "-m", "pytest", *how, *words]
    return subprocess.run(command, env=variables, cwd=environment.ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
