"""Completion in an interactive bash on a terminal: keys go in, and the line they make is read."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ascend_passes.__main__ import whole_parser
from ascend_passes.cli.completion import script, words_of

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
PATIENCE = 30
PROMPT = "ready> "


class Bash:
    """An interactive shell that has read the script."""

    def __init__(self, folder: Path) -> None:
        self.terminal, theirs = pty.openpty()
        environment = {**os.environ, "PS1": PROMPT, "TERM": "dumb", "INPUTRC": "/dev/null"}
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self.lines = 0
        self.until(PROMPT)
        self.keys("source ./script; stty columns 200; echo READ$((1+1))\n")
        self.until(f"READ2\r\n{PROMPT}")

    def keys(self, text: str) -> None:
        """Type."""
        os.write(self.terminal, text.encode())

    def until(self, text: str) -> str:
        """What is shown until a text has come."""
        shown, end = "", time.monotonic() + PATIENCE
        while text not in shown:
            assert time.monotonic() < end, shown
            if select.select([self.terminal], [], [], 0.1)[0]:
                shown += os.read(self.terminal, 65536).decode()
        return shown

    def line(self, typed: str) -> str:
        """The words that a command line has behind some keys, as `echo` prints them."""
        self.lines += 1
        end = f":END{1000 + self.lines}"  # which is not what is typed, but what is printed
        # To the begin of the line, and to its end.
        self.keys(f"{typed}\x01echo \x05 :END$((1000+{self.lines}))\n")
        *_, said, _ = self.until(f"{end}\r\n{PROMPT}").splitlines()
        return said.removesuffix(end).rstrip()

    def close(self) -> None:
        """End the shell."""
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bash]:
    folder = tmp_path_factory.mktemp("bash")
    (folder / "script").write_text(script(dict(words_of(whole_parser()))))
    (folder / "Qwen3 small").mkdir()
    made = Bash(folder)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("ascend-passes expl\t", "ascend-passes explain"),
        ("ascend-passes explain --ht\t", "ascend-passes explain --html"),
        ("ascend-passes explain --option flashcomm_\t1", "flashcomm_tokens=1"),
        ("ascend-passes show swiglu_quant_d\t", "ascend-passes show swiglu_quant_dynamic"),
        ("ascend-passes bench pe\t--dt\tbf\t", "ascend-passes bench peers --dtype bfloat16"),
        ("ascend-passes explain Qw\t", "ascend-passes explain Qwen3 small/"),
        ("ascend-passes explain nothing_like_it\t", "ascend-passes explain nothing_like_it"),
    ],
)
def test_the_tab_key_completes(bash: Bash, typed: str, line: str) -> None:
    assert bash.line(typed).endswith(line)


def test_an_equals_sign_is_not_escaped(bash: Bash) -> None:
    """What bash would do to the `=` of an option if it were part of a file's name."""
    bash.keys("ascend-passes explain --option flashcomm_\t")
    shown = bash.until("flashcomm_tokens=")
    bash.keys("\x15")
    assert "\\" not in shown.replace("\x07", "")
