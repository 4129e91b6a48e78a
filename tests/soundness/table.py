"""The table of a run, and the page of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.soundness.judge import Verdict
from tests.soundness.sweeps import WHAT, named_cases

PAGE = Path(__file__).parents[2] / "docs" / "soundness.md"

TEXT = """# Soundness

<!-- Written by `python -m tests.soundness --write-docs`; do not edit. -->

A model that `ascend_dense` compiles behaves as the uncompiled one in everything that can be
observed. What says so is torch's: its table of operators and its table of modules, with its sample
inputs, and `aot_eager` as the backend to compare with.

## What is compared

Each case runs three times with equal copies of its inputs, which share memory among each other as
the originals do: in eager, under `aot_eager` and under `ascend_dense`. Compared are

* values, bit for bit: NaN is NaN, -0.0 is not 0.0; where an operator was recognized by meaning, to
  the rounding of torch.testing, since it may round less than the spelling does, or as near to
  float64 as `aot_eager` is: half of the values within 1.1 times its distance, all within 4 times
  its largest;
* type, dtype, layout, shape, strides of dims with several elements, conjugate and negative bits,
  whether a result needs a gradient and whether it is a leaf, how large its memory is;
* which results share memory with each other and with arguments and parameters, and which are the
  same object;
* arguments, parameters and buffers after the call;
* all values after each result is written in turn, and the results of a second call;
* gradients, of the call as it is and after each result was written, and which share memory;
* the type of what is raised, and its text, to which a backend may add;
* random numbers: the same from the same state, and the state that they leave;
* warnings of this package, and passes that failed and were left out.

Uninitialized memory is filled with NaN or the largest integer, so that who reads it shows. A fact
is a fault where `ascend_dense` differs from both eager and `aot_eager`. *Shared* are cases where
both backends differ from eager in the same way. A fact that `aot_eager` does not give twice is not
compared. Three kinds have no reference. Where `aot_eager` raises and eager does not, values are
held against eager's to rounding, since a graph adds gradients up in another order. Where eager
refuses a write that both backends allow, and `aot_eager` lets results share memory that eager and
`ascend_dense` keep apart, what it computes after that write is not compared. Where eager refuses to
differentiate because a result was written after it was saved, and `aot_eager` does not, its
gradients depend on what it happened to save: they may also be, to rounding, those that eager gives
when a copy of the result is written.

## How to run it

    python -m tests.soundness                                   all sweeps
    python -m tests.soundness --sweep composed --op softmax     one operator
    python -m tests.soundness --case "composed/softmax copies"  one case, with a minimal file
    python -m tests.soundness --shard 1/4 --jobs 2 --json out   a part; --resume goes on

Each case that fails prints the command that runs it alone; that prints every fact that differs and
a Python file, reduced to the lines that matter. The same seed gives the same cases, samples and
drawn programs. `make test` runs the fixed cases and a sample of the rest that changes with the day;
its seed is in the header and in the text of a failure, and `ASCEND_PASSES_TEST_SEED` sets it.

## Results

Seed {seed}, torch {torch}. *Of* is how many cases a sweep has, seconds are of one process.

"""


@dataclass(frozen=True)
class Row:
    """One sweep."""

    sweep: str
    cases: int
    of: int
    """Cases that the sweep has."""
    faults: int
    shared: int
    skipped: int
    seconds: float

    @property
    def cells(self) -> tuple[str, ...]:
        """As text."""
        numbers = (self.cases, self.of, self.faults, self.shared, self.skipped, round(self.seconds))
        return self.sweep, *map(str, numbers)


HEAD = ("sweep", "cases", "of", "faults", "shared", "skipped", "seconds")


def rows(found: Mapping[str, Iterable[Verdict]]) -> list[Row]:
    """A row for each sweep that ran, and their sum."""
    lines = [row(sweep, list(verdicts)) for sweep, verdicts in found.items() if verdicts]
    sums = [sum(getattr(line, name) for line in lines) for name in HEAD[1:]]
    return [*lines, Row("all", *sums)]


def row(sweep: str, verdicts: list[Verdict]) -> Row:
    """The row of one sweep."""
    return Row(
        sweep,
        len(verdicts),
        len(named_cases(sweep)),
        sum(bool(v.faults) for v in verdicts),
        sum(bool(v.shared) for v in verdicts),
        sum(bool(v.skipped) for v in verdicts),
        sum(v.seconds for v in verdicts),
    )


def text(lines: list[Row]) -> str:
    """The table for a terminal."""
    cells = [HEAD, *(line.cells for line in lines)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def reasons(found: Mapping[str, Iterable[Verdict]]) -> list[str]:
    """Why cases were skipped, the most frequent reason first."""
    counts = Counter(v.skipped for verdicts in found.values() for v in verdicts if v.skipped)
    return [f"{count} {reason}" for reason, count in counts.most_common()]


def page(found: Mapping[str, Iterable[Verdict]], seed: int) -> str:
    """`docs/soundness.md`."""
    lines: list[str] = [*TEXT.format(seed=seed, torch=torch.__version__).splitlines()]
    lines += [
        "| sweep | what | " + " | ".join(HEAD[1:]) + " |",
        "|---|---|" + "---|" * len(HEAD[1:]),
    ]
    for line in rows(found):
        name, *numbers = line.cells
        lines.append(f"| {name} | {WHAT.get(name, '')} | " + " | ".join(numbers) + " |")
    lines += ["", "Skipped:", ""]
    lines += [f"* {reason}" for reason in reasons(found)] or ["* nothing"]
    return "\n".join(lines) + "\n"
