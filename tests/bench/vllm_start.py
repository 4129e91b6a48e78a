"""How much of vLLM's compile time at a start our passes take: `python -m tests.bench.vllm_start`.

Each engine starts in a process of its own without compile caches, as a server's first start does:
vLLM as it is (Inductor), the same with our passes inside, and `ascend_dense` as the backend.
Compile time is what a start takes beyond that of an engine that compiles nothing. Ends with 1 where
the passes take 5 percent or more of the compile time of vLLM as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.vllm.installed_platform import SOURCE, describe_platform

ROOT = Path(__file__).parents[2]
SHARE = 0.05
KINDS: dict[str, dict[str, Any]] = {
    "eager": {"compilation_config": {"mode": 0}},
    "plain": {"compilation_config": {"mode": 2, "backend": "inductor"}},
    "inside": {
        "compilation_config": {"mode": 2, "backend": "inductor"},
        "additional_config": {"ascend_passes": {}},
    },
    "ascend_dense": {"compilation_config": {"backend": "ascend_dense"}},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=str(ROOT / ".venv-vllm/bin/python"))
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = start_all(arguments.python, arguments.layers, Path(folder))
    row = summary(results, arguments.layers)
    print(json.dumps(row, indent=2) if arguments.json else sentence(row))
    return 0 if row["ratio"] < SHARE else 1


def start_all(python: str, layers: int, folder: Path) -> dict[str, Any]:
    """What each kind of start gives, by kind."""
    from tests.vllm.checkpoints import make

    model = str(make(folder / "model", "qwen3", "bf16", num_hidden_layers=layers))
    return {
        kind: start(
            python,
            {"name": kind, "model": model, "batches": [[[5, 6, 7]]], "engine": engine},
            folder / kind,
        )
        for kind, engine in KINDS.items()
    }


def start(python: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Start one engine in a process of its own."""
    folder.mkdir()
    describe_platform(folder)
    variables = {
        "HF_HUB_OFFLINE": "1",
        # Without AMX, which vLLM's kernels end by an illegal instruction with on some machines.
        "PYTHONPATH": f"{folder}:{SOURCE}:{ROOT}",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_DISABLE_COMPILE_CACHE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    target = folder / "results.json"
    done = subprocess.run(
        [python, str(ROOT / "tests/vllm/session.py"), str(target)],
        input=json.dumps([case]),
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not target.exists():
        sys.exit(f"{done.stdout}\n{case['name']}: ended with {done.returncode}")
    result: dict[str, Any] = json.loads(target.read_text())[case["name"]]
    if "error" in result:
        sys.exit(f"{result['error']}\n{done.stdout}")
    return result


def summary(results: dict[str, Any], layers: int) -> dict[str, Any]:
    """Seconds side by side, and our passes' share of vLLM's own compile time."""
    starts = {kind: results[kind]["start_seconds"] for kind in KINDS}
    compiling = {kind: starts[kind] - starts["eager"] for kind in KINDS if kind != "eager"}
    inside = results["inside"]
    passes = sum(seconds(report) for report in inside["reports"])
    return {
        "layers": layers,
        "start_seconds": starts,
        "compile_seconds": compiling,
        "pass_seconds": passes,
        "fired": inside["reports"][0]["fired"],
        "ratio": passes / compiling["plain"],
    }


def seconds(report: dict[str, Any]) -> float:
    """All stages of one graph."""
    return float(sum(report["seconds"].values()))


def sentence(row: dict[str, Any]) -> str:
    """The row for a person."""
    times = ", ".join(f"{kind} {value:.1f} s" for kind, value in row["compile_seconds"].items())
    return (
        f"{row['layers']} layers: compile time {times}; our passes {row['pass_seconds']:.2f} s, "
        f"{row['ratio']:.1%} of vLLM's own (allowed: less than {SHARE:.0%})"
    )


if __name__ == "__main__":
    sys.exit(main())
