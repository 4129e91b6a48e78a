"""Every command of the README and of the pages is run, or its row in a table says why it is not."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("compressed_tensors")

from ascend_passes.__main__ import BENCHMARKS, COMMANDS, main
from ascend_passes.cli.demo import save_model
from tests.slow import slow
from tests.tutorials import PAGES, ROOT

TABLE_PAGE = ROOT / "docs" / "contributing.md"
HEADING = "## Commands that no test runs"
PROGRAM = (
    r"(?:[A-Z_]+=\S+ )*(?:make|pip|python|vllm|hf|bash|sh|source|docker|mkdocs|ascend-passes"
    r"|\.venv/bin/\S+|\./?\S+\.sh|\.ci/run) \S"
)
BLOCK_LINE = re.compile(rf"^    (?:\$ )?({PROGRAM}.*)$")
OWN = re.compile(rf"^(?:{'|'.join(COMMANDS)}) [A-Z]")
"""A command of ours as the tables write it, without the program's name."""
NAMELESS = re.compile(rf"^({PROGRAM}.*)$")
OURS = re.compile(r"^(?:\.venv/bin/)?ascend-passes |^python -m ascend_passes ")
STANDS_FOR = {
    **dict.fromkeys(("DIRECTORY", "DIR", "MODEL", "x"), "model"),
    **{"A.json": "today.json", "B.json": "today.json", "FILE": "made.html", "N": "0"},
    **{"NAME": "swiglu", "RULE": "swiglu", "FOLDER": "./my_rules"},
}
NOT_COMMANDS = (
    *("ascend-passes COMMAND", "python -m ascend_passes COMMAND"),
    "ascend-passes bisect",
)
"""Which say how commands are written, or name one."""
STATUSES = {"doctor": (0, 1)}
"""What a command may end in; else 0. `doctor` answers 1 where there is no NPU."""
MINUTES = "ascend-passes bench peers"
"""Whose peers are compiled for two minutes; `tests/test_peers.py` measures smaller ones."""


def pages() -> list[Path]:
    """The README and the pages that people write; those of rules are made from their files."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *(path for path in found if "rules" not in path.parts)]


def commands_in(path: Path) -> Iterator[str]:
    """The commands of a page, in its blocks and between its words."""
    text = path.read_text().partition(HEADING)[0]
    fence = None
    for line in text.splitlines():
        if line.startswith("```"):
            fence = line.strip("`") if fence is None else None
        elif fence is not None:  # tests/test_tutorials.py runs the console blocks of its pages
            if fence.startswith(("console", "sh", "bash")) and (path not in PAGES or "no" in fence):
                yield line.strip()
        elif found := BLOCK_LINE.match(line):
            yield re.sub(r"\s{2,}.*$", "", found[1])
        else:
            codes = re.findall(r"`([^`]+)`", line)
            yield from (one for one in codes if NAMELESS.match(one))
            yield from (f"ascend-passes {one}" for one in codes if OWN.match(one))


def not_run() -> list[str]:
    """The commands of the table."""
    _, _, rest = TABLE_PAGE.read_text().partition(HEADING)
    return re.findall(r"^\| `([^`]+)` \|", rest, re.M)


def every_command() -> dict[str, Path]:
    """Command -> the first page that has it."""
    found: dict[str, Path] = {}
    for path in pages():
        for command in commands_in(path):
            if command and command not in NOT_COMMANDS:
                found.setdefault(command, path)
    return found


def row_of_command(command: str) -> str | None:
    """The row of the table that stands for a command; `new NAME --folder` is run."""
    plain = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command)
    rows = [row for row in not_run() if plain == row or plain.startswith((f"{row} ", f"{row}."))]
    rows += [
        row for row in not_run() if row == "python tests/bench" and plain.startswith(f"{row}/")
    ]
    return None if "--folder" in command else next(iter(rows), None)


def to_run() -> dict[str, str]:
    """What is run, without its stand-ins -> the first command that means it."""
    found: dict[str, str] = {}
    for command in every_command():
        if row_of_command(command) is None:
            found.setdefault(" ".join(words_of(command)[0]), command)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small model and a file of reports."""
    made = tmp_path_factory.mktemp("reader")
    save_model(made / "model", torch.float32, None, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        assert main(["new", "gelu_mul", "--folder", "my_rules"]) == 0
    return made


def words_of(command: str) -> tuple[list[str], str | None]:
    """Words behind the program's name, and the file that takes what is printed."""
    text = OURS.sub("", command)
    text, _, target = text.partition(" > ")
    words = [STANDS_FOR.get(word, word) for word in shlex.split(text)]
    if words[0] == "new":  # it refuses a name that is taken
        words[1] = f"mine_{len(words)}"
        words += [] if "--folder" in words else ["--folder", "folder"]
    return words, target or None


RUN = list(to_run().values())


def test_there_are_commands_of_every_kind():
    assert len(RUN) > 20
    ran = {words_of(command)[0][0] for command in RUN if OURS.match(command)}
    assert ran >= {"run", "explain", "compare", "bisect", "show", "new", "check", "doctor"}
    assert all(OURS.match(command) for command in RUN), "only commands of ours can be run here"


@pytest.mark.own_process
@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=[slow] * c.startswith(MINUTES)) for c in RUN]
)
def test_a_command_of_a_page_does_what_the_page_says(folder, monkeypatch, capsys, command):
    monkeypatch.chdir(folder)
    if "compare" in command:
        assert main(["explain", "model", "--json"]) == 0
        (folder / "today.json").write_text(capsys.readouterr().out)
    torch._dynamo.reset()
    words, target = words_of(command)
    try:
        status = main(words)
    except SystemExit as ended:  # --version and --help
        status = ended.code or 0
    said = capsys.readouterr()
    assert status in STATUSES.get(words[0], (0,)), said.err[-2000:]
    assert said.out or target
    for flag in ("--html", "--write-expect"):
        if flag in words:
            assert (folder / words[words.index(flag) + 1]).stat().st_size


def test_the_table_has_no_row_too_many():
    used = {row_of_command(command) for command in every_command()}
    assert {row for row in not_run() if row not in used} == set()


def test_what_a_row_stands_for_is_there():
    """Targets, modules and files that are not run: at least they exist."""
    makefile = (ROOT / "Makefile").read_text()
    for command in every_command():
        if target := re.fullmatch(r"make ([a-z]+)", command):
            assert f"\n{target[1]}:" in makefile, command
            dry = ["make", "-n", target[1]]
            assert subprocess.run(dry, cwd=ROOT, capture_output=True, check=False).returncode == 0
        for module in re.findall(r"python -m (tests\.\S+)", command):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), command
        for path in re.findall(r"(?<= )tests/[\w/]+\.py", command):
            assert (ROOT / path).is_file() or "NAME" in path, command


def test_what_the_table_names_instead_is_there():
    _, _, table = TABLE_PAGE.read_text().partition(HEADING)
    named = re.findall(r"`(tests/[\w/.]+)`", table)
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_command_is_on_its_page():
    page = (ROOT / "docs" / "command-line.md").read_text()
    for name in (*COMMANDS, *(f"bench {one}" for one in BENCHMARKS)):
        assert f"`{name}" in page, name


def test_a_command_that_is_new_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "    make cake     # of sugar\n    an indented line\n\n"
        "```console\nascend-passes list\n```\n"
        "`ascend-passes show NAME` and `explain DIR --layer N`, not `explain` or `x --html`\n"
        "```python\nmake = 3\n```\n"
    )
    assert list(commands_in(page)) == [
        "make cake",
        "ascend-passes list",
        "ascend-passes show NAME",
        "ascend-passes explain DIR --layer N",
    ]
    assert row_of_command("make cake") == "make" and row_of_command("makes cake") is None
