"""What a process pays before its first graph runs, beside what it pays for the next one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

OURS, THEIRS = "ascend_dense", "aot_eager"
MOST_COLD = 0.5
"""Processor seconds that the first compilation of a process may take over `aot_eager`'s."""
MOST_IMPORT = 0.3
"""Processor seconds that `import ascend_passes` may take over `import torch`."""
IMPORTS = "import time; {}; print(time.process_time())"


@dataclass(frozen=True)
class Cold:
    """Processor seconds of a one-layer W8A8 model, each the best of several fresh processes."""

    ours: float
    """Of the first compilation and call with `ascend_dense`, imports included."""
    aot_eager: float
    """Of torch's own that changes nothing."""
    ours_again: float
    """Of another compilation in the same process."""
    aot_eager_again: float
    ours_import: float
    """Of a process that imports torch and this package."""
    torch_import: float

    @property
    def over(self) -> float:
        """What the first compilation takes over torch's own."""
        return self.ours - self.aot_eager

    @property
    def import_over(self) -> float:
        """What the import takes over torch's."""
        return self.ours_import - self.torch_import


def measure_cold(repeats: int, stage: Callable[[str, int, int], None]) -> Cold:
    """Start fresh processes, first one of each kind for Python to write its bytecode.

    Raises:
        RuntimeError: such a process failed; the text is the end of what it said.
    """
    kinds = {
        OURS: ("-m", "ascend_passes.cli.first_compile", OURS),
        THEIRS: ("-m", "ascend_passes.cli.first_compile", THEIRS),
        "import": ("-c", IMPORTS.format("import torch, ascend_passes")),
        "torch": ("-c", IMPORTS.format("import torch")),
    }
    found: dict[str, list[Any]] = {name: [] for name in kinds}
    total = (repeats + 1) * len(kinds)
    for _ in range(repeats + 1):
        for name, words in kinds.items():
            stage("fresh processes", sum(map(len, found.values())), total)
            found[name].append(answer(words))
    return best_of({name: times[1:] for name, times in found.items()})


def best_of(found: Mapping[str, Sequence[Any]]) -> Cold:
    """The least of each."""

    def least(name: str, which: str) -> float:
        return min(float(one[which]) for one in found[name])

    return Cold(
        ours=least(OURS, "cold"),
        aot_eager=least(THEIRS, "cold"),
        ours_again=least(OURS, "warm"),
        aot_eager_again=least(THEIRS, "warm"),
        ours_import=min(found["import"]),
        torch_import=min(found["torch"]),
    )


def answer(words: Sequence[str]) -> Any:
    """What a fresh Python prints last, as JSON; errors as in `measure_cold`."""
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, *words],
        env={**kept, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"a fresh process failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def cold_table(cold: Cold) -> Table:
    """The figures on a terminal."""
    table = Table(box=None, title="CPU seconds of a process, W8A8, one layer", title_justify="left")
    table.add_column("")
    for title in ("ascend_dense", "aot_eager", "over it"):
        table.add_column(title, justify="right")
    for what, ours, theirs in (
        ("first compilation and call", cold.ours, cold.aot_eager),
        ("another one", cold.ours_again, cold.aot_eager_again),
        ("import, beside torch's alone", cold.ours_import, cold.torch_import),
    ):
        table.add_row(what, f"{ours:.2f}", f"{theirs:.2f}", f"{ours - theirs:.2f}")
    return table
