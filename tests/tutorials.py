"""Runs the blocks of a page of the documentation in their order, as a reader would.

`python -m tests.tutorials PAGE...` writes what they print today into the pages.

A block of Python runs in the same names as those before it, or is a file where it says so; a block
of the console is commands of ours; `norun` keeps one for readers. A block of text behind one of
Python is what it printed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs/tutorials").glob("*.md"), *(ROOT / "docs/systems").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.M | re.S)
MARK = "-- the next block prints --"
PATIENCE = 1200


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    kind: str
    about: str
    text: str
    span: tuple[int, int]
    """Of the text, in the page."""


def blocks(page: str) -> list[Block]:
    """The blocks of a page."""
    return [
        Block(m[1], m[2] or "", m[3], (m.start(3), m.end(3)))
        for m in BLOCK.finditer(page)
        if "norun" not in (m[2] or "")
    ]


def script(found: list[Block]) -> Iterator[str]:
    """The program that runs the blocks and marks what each prints."""
    yield "import shlex, sys, contextlib\nfrom pathlib import Path\n"
    yield "sys.path.insert(0, '.')\nfrom ascend_passes.__main__ import main as _command\n"
    for block in found:
        yield f"print({MARK!r})\n"
        if block.kind == "console":
            yield from (f"_run({line!r})\n" for line in block.text.splitlines() if line.strip())
        elif block.about.startswith("file="):
            name = block.about.removeprefix("file=")
            yield f"Path({name!r}).parent.mkdir(parents=True, exist_ok=True)\n"
            yield f"Path({name!r}).write_text({block.text!r})\n"
        elif block.kind == "python":
            yield block.text


RUN = """
def _run(line):
    words = shlex.split(line)
    assert words[0] == "ascend-passes", line
    words, target = (words[1:-2], words[-1]) if ">" in words else (words[1:], None)
    with contextlib.ExitStack() as stack:
        if target:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(target, "w"))))
        assert _command(words) == 0, line
"""


def outputs(page: Path) -> list[str]:
    """What each block of a page prints.

    Raises:
        AssertionError: one of them fails; the text has its traceback.
    """
    first, *rest = script(blocks(page.read_text()))
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "page.py"
        program.write_text("".join([first, RUN, *rest]))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
        done = subprocess.run(
            [sys.executable, program.name],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, f"{page}:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return [part.strip("\n") for part in done.stdout.split(f"{MARK}\n")[1:]]


def told(page: Path) -> Iterator[tuple[Block, str, str]]:
    """Block of text, what it says, and what the block in front of it printed."""
    found, printed = blocks(page.read_text()), outputs(page)
    for index, block in enumerate(found):
        if block.kind == "text" and index:
            yield block, block.text.strip("\n"), printed[index - 1]


def write(page: Path) -> None:
    """Put today's outputs into a page."""
    text = page.read_text()
    for block, _, printed in reversed(list(told(page))):
        low, high = block.span
        text = f"{text[:low]}{printed}\n{text[high:]}"
    page.write_text(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", nargs="+", type=Path)
    for one in parser.parse_args().page:
        write(one)
