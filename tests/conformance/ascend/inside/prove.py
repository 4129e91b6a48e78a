"""Compiles every kernel for every chip and runs what is made for the 910B1; the last line is JSON.

    python prove.py ROOT WORK SEED [NAME ...]
    python prove.py ROOT WORK --mutants NAME COUNT SEED

Run by `tests.conformance.ascend.toolchain`, where Huawei's triton is the one that is imported.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import cases
import compile as compiler
import host
import launch as cpu
import sources

MUTATIONS = {
    "flag removed": r"hivm\.hir\.(set|wait)_flag",
    "vector call removed": r"call @v",
    "address moved": r"^    %c\d+_i64 = arith.constant \d{3,}",
}
MOVED_BY = 32


def linalg_of(root: Path, case: cases.Case, to: Path) -> Path:
    """Where the kernel's text for Huawei's compiler was written."""
    kernel = getattr(sources.kernels_in(root, case.file), case.kernel)
    to.write_text(compiler.linalg_of(kernel, case.signature, case.constants))
    return to


def ran(case: cases.Case, library: Path, seed: int) -> dict[str, Any]:
    """Counts and errors of a run on fresh inputs."""
    assert case.draw is not None
    rng = np.random.default_rng(seed)
    drawn = case.draw(rng, {**case.constants, **case.extra})
    counts = cpu.launch(library, case.kernel, drawn.arguments, case.grid)
    return {"counts": dataclasses.asdict(counts), "errors": drawn.errors()}


def proved(root: Path, name: str, work: Path, seed: int) -> dict[str, Any]:
    """What is found of one form."""
    case, folder = cases.CASES[name], work / f"{zlib.crc32(name.encode()):08x}"
    folder.mkdir(exist_ok=True, parents=True)
    linalg, targets = linalg_of(root, case, folder / "kernel.mlir"), {}
    for target in compiler.TARGETS:
        try:
            compiler.hivm_of(linalg, folder / target, target)
            targets[target] = "compiles"
        except compiler.RefusedError as error:
            targets[target] = str(error)
    found: dict[str, Any] = {"kernel": case.kernel, "targets": targets, "notes": case.notes}
    if case.draw is not None and targets[compiler.TARGETS[0]] == "compiles":
        hivm = folder / compiler.TARGETS[0] / "module.hivm.opt.mlir"
        found |= ran(case, host.library_of(hivm, folder / "host"), seed)
    return found


def refused(root: Path, work: Path) -> str:
    """What the compiler says of a block that does not fit; "" where it takes it."""
    linalg = linalg_of(root, cases.TOO_BIG, work / "too_big.mlir")
    try:
        compiler.hivm_of(linalg, work / "too_big", compiler.TARGETS[0])
    except compiler.RefusedError as error:
        return str(error)
    return ""


def mutants(root: Path, name: str, work: Path, count: int, seed: int) -> dict[str, list[int]]:
    """Of each kind of damage to the compiled text: how many were noticed, of how many."""
    case, folder = cases.CASES[name], work / "mutants"
    folder.mkdir(exist_ok=True, parents=True)
    linalg = linalg_of(root, case, folder / "kernel.mlir")
    lines = compiler.hivm_of(linalg, folder, compiler.TARGETS[0]).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f"func.func @{case.kernel}(" in line)
    draw, found = random.Random(seed), {}
    for kind, pattern in MUTATIONS.items():
        places = [i for i in range(start, len(lines)) if re.search(pattern, lines[i])]
        chosen = draw.sample(places, min(count, len(places)))
        texts = [damaged(lines, at, kind) for at in chosen]
        noticed = sum(not survives(root, name, folder, text, seed) for text in texts)
        found[kind] = [noticed, len(chosen)]
    return found


def damaged(lines: list[str], at: int, kind: str) -> str:
    """The text with one line changed."""
    moved = re.sub(r"constant (\d+)", lambda m: f"constant {int(m[1]) + MOVED_BY}", lines[at])
    return "\n".join([*lines[:at], moved if kind == "address moved" else "", *lines[at + 1 :]])


def survives(root: Path, name: str, folder: Path, text: str, seed: int) -> bool:
    """Whether a damaged text runs without a fault and within the bounds, in a process of its own:
    a core that finds no way on ends it."""
    (folder / "mutant.mlir").write_text(text)
    words = (sys.executable, __file__, root, folder, "--run", name, seed)
    return not subprocess.run([*map(str, words)], capture_output=True, timeout=300).returncode


def run_mutant(name: str, folder: Path, seed: int) -> int:
    """0 where the text in the folder gives what the kernel should."""
    library = host.library_of(folder / "mutant.mlir", folder / "host")
    found = ran(cases.CASES[name], library, seed)
    wrong = any(not error <= bound for error, bound in found["errors"].values())
    return int(wrong or found["counts"]["faults"] > 0)


def main() -> int:
    """Do what the arguments ask for."""
    root, work, *words = sys.argv[1:]
    folder = Path(work)
    if words[:1] == ["--run"]:
        return run_mutant(words[1], folder, int(words[2]))
    if words[:1] == ["--mutants"]:
        name, count, seed = words[1], int(words[2]), int(words[3])
        print(json.dumps(mutants(Path(root), name, folder, count, seed)))
        return 0
    seed, names = int(words[0]), words[1:] or list(cases.CASES)
    found = {name: proved(Path(root), name, folder, seed) for name in names}
    print(json.dumps({"refused": refused(Path(root), folder), "kernels": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
