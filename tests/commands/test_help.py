"""What stands around the commands: examples, near misses, completion, and signs of life."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_passes.__main__ import BENCHMARKS, COMMANDS, main, parser, whole_parser
from ascend_passes.cli import waiting
from ascend_passes.cli.completion import ZSH, script, words_of

pytest.importorskip("transformers")
EVERY = [(name,) for name in COMMANDS] + [("bench", name) for name in BENCHMARKS]


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def examples_in(text):
    _, _, rest = text.partition("\nexamples:\n")
    lines = rest.partition("\n\n")[0].splitlines()
    assert lines and all(line.startswith("  ") for line in lines)
    return [line.strip() for line in lines]


@pytest.mark.parametrize("words", [(), ("bench",), *EVERY], ids=" ".join)
def test_every_help_has_examples_that_are_understood(capsys, words):
    for example in examples_in(help_of(capsys, *words)):
        command = example.removeprefix('eval "$(').removesuffix(')"')
        program, *rest = shlex.split(re.sub(r"\s*>+.*$", "", command))
        assert program == "ascend-passes"
        assert tuple(rest[: len(words)]) == words
        if "--help" not in rest:
            assert callable(parser().parse_args(rest).run)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("explan", "x"), "Did you mean 'explain'?"),
        (("bench", "compil"), "Did you mean 'compile'?"),
        (("explain", "x", "--promt-length", "3"), "Did you mean '--prompt-length'?"),
        (("run", "x", "--sed=3"), "Did you mean '--seed'?"),
        (("bench", "comm", "--rank-s", "3"), "Did you mean '--ranks'?"),
        (("demo", "--model", "qwen3-float23"), "Did you mean 'qwen3-float32'?"),
        (("explain", "x", "--shapes", "dynamical"), "Did you mean 'dynamic'?"),
        (("completion", "bsh"), "Did you mean 'bash'?"),
        (("list", "--nothing-like-it"), "unrecognized arguments: --nothing-like-it (see"),
        (("run", "x", "--model=y"), "unrecognized arguments: --model=y (see"),
    ],
)
def test_a_wrong_word_is_one_line_with_what_is_near(capsys, words, hint):
    with pytest.raises(SystemExit) as ended:
        main(words)
    text = capsys.readouterr()
    assert ended.value.code == 2 and text.out == ""
    assert text.err.count("\n") == 1 and hint in text.err
    assert "--help`)" in text.err


def test_a_folder_that_is_nearly_named_is_proposed(capsys, tmp_path):
    (tmp_path / "Qwen3-32B").mkdir()
    assert main(["explain", str(tmp_path / "Qwen3-32b")]) == 2
    assert "Did you mean 'Qwen3-32B'?" in capsys.readouterr().err


@pytest.fixture(scope="module")
def scripts():
    text = script(dict(words_of(whole_parser())))
    return {"bash": text, "zsh": ZSH + text}


def completed(text, shell, folder, *words):
    """What a shell proposes for the last of these words."""
    line = " ".join(map(shlex.quote, ("ascend-passes", *words)))
    names = "COMP_WORDS COMP_CWORD COMPREPLY"
    start = "emulate -L ksh; setopt ksh_arrays sh_word_split\n" if shell == "zsh" else ""
    program = (
        f"{text}\n_try() {{ {start}typeset -a {names}; COMP_WORDS=({line}); "
        f"COMP_CWORD={len(words)}; _ascend_passes; "
        'printf "%s\\n" "${COMPREPLY[@]}"; }\n_try'
    )
    flags = ["-f", "-c"] if shell == "zsh" else ["--norc", "-c"]
    done = subprocess.run(
        [shell, *flags, program], capture_output=True, text=True, check=False, cwd=folder
    )
    assert not done.stderr.strip(), done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes(scripts, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "model").mkdir()
    text = scripts[shell]

    def proposed(*words):
        return completed(text, shell, tmp_path, *words)

    assert proposed("ex") == ["explain"]
    assert set(proposed("")) >= {*COMMANDS, "bench", "--debug"}
    assert proposed("explain", "--lay") == ["--layer"]
    assert proposed("--debug", "explain", "--lay") == ["--layer"]
    assert proposed("explain", "mo") == ["model"]
    assert proposed("explain", "--option", "flashcomm_") == ["flashcomm_tokens="]
    assert proposed("explain", "x", "--shapes", "") == ["auto", "static", "dynamic"]
    assert proposed("show", "add_rms_norm_q") == ["add_rms_norm_quant"]
    assert proposed("show", "swiglu_p") == [] and "swiglu" in proposed("show", "swig")
    assert proposed("bench", "co") == ["compile", "comm"]
    assert proposed("bench", "pe") == ["peers"]
    assert proposed("bench", "compile", "--lay") == ["--layers"]
    assert proposed("completion", "z") == ["zsh"]
    assert proposed("explain", "--nothing") == []


def test_the_completion_command_prints_what_a_shell_reads(capsys, scripts):
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == scripts["bash"]


SLOW = """
import sys, time
from ascend_passes.cli import waiting
waiting.QUIET_SECONDS, waiting.STEP_SECONDS = {quiet}, 0.05
waiting.waiting("it loads")
time.sleep(0.5)
waiting.settled()
print("done")
"""


def on_a_terminal(program):
    """What a program shows on a terminal."""
    master, slave = pty.openpty()
    done = subprocess.Popen([sys.executable, "-c", program], stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the last one has closed it
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert done.wait() == 0
    return shown.decode()


def test_a_terminal_is_told_that_something_is_going_on():
    shown = on_a_terminal(SLOW.format(quiet=0.1))
    assert "it loads: 0 s" in shown
    assert shown.rstrip().endswith(f"{waiting.CLEAR}done")


def test_what_is_quick_says_nothing():
    assert on_a_terminal(SLOW.format(quiet=30)).split() == ["done"]


def test_a_log_file_is_told_nothing_of_waiting():
    done = subprocess.run(
        [sys.executable, "-c", SLOW.format(quiet=0.1)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "done\n" and done.stderr == ""


def test_the_page_lists_every_command():
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    for words in EVERY:
        assert f"`{' '.join(words)}" in page
