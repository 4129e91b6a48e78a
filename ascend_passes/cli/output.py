"""Results go to stdout, progress to stderr; with `--json`, stdout holds JSON alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ascend_passes.cli.waiting import settled
from ascend_passes.report.merge import Merged
from ascend_passes.report.text import UNBROKEN, TextLine, full_lines, wrapped

MOST_CHARACTERS = 1500
"""Of an error's line."""
MOST_COLUMNS = 1000
"""Characters of a line that no table reaches."""
TONES: Mapping[str, str] = MappingProxyType({"good": "green", "bad": "yellow", "": "bold"})
"""Tone of a line -> style of its label."""


class Output(Console):
    """A console that leaves a reader who is gone to `main`, as `print` does."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError, where rich would end the process."""
        raise BrokenPipeError


def console() -> Console:
    """stdout; plain text where it is no terminal."""
    settled()
    return Output(highlight=False, markup=False, soft_wrap=True)


def shortened(text: str) -> str:
    """One line of what a terminal can show."""
    line = " ".join(text.split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    settled()
    print(json.dumps(value, indent=2))


def print_table(out: Console, table: Table) -> None:
    """A table; where stdout is no terminal it is as wide as its cells, and nothing is cut off."""
    if not out.is_terminal:
        wide = Measurement.get(out, out.options.update(max_width=MOST_COLUMNS), table).maximum
        out.width = max(out.width, wide)
    out.print(table)


@contextmanager
def progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress of long work on stderr; yields `(what, done, total) -> None`.

    A bar on a terminal; elsewhere a line whenever something else begins.
    """
    settled()
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield line_by_line(title)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{title}: {what}", completed=done, total=total)

        yield show


def line_by_line(title: str) -> Callable[[str, int, int], None]:
    """Progress for a log file."""
    last = ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        if what != last:
            print(f"{title}: {what}", file=sys.stderr, flush=True)
            last = what

    return show


def print_report(out: Console, one: Merged, title: str) -> None:
    """A report under a heading."""
    out.rule(Text(title), align="left")
    print_lines(out, full_lines(one, width_of(out)))


def print_lines(out: Console, lines: Iterable[TextLine]) -> None:
    """Lines of a report; on a terminal as wide as it is, and their labels in colour."""
    for line in lines:
        for number, row in enumerate(wrapped(line, width_of(out))):
            text = Text(row)
            if number == 0 and line.label:
                text.stylize(TONES[line.tone], 0, len(line.label))
            out.print(text)


def width_of(out: Console) -> int:
    """The columns of a terminal; elsewhere more than any line needs."""
    return out.width if out.is_terminal else UNBROKEN
