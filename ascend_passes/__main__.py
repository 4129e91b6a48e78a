"""The command line: `ascend-passes COMMAND` or `python -m ascend_passes COMMAND`.

Results go to stdout; what is wrong goes to stderr as one line that begins with `error: ` and names
the fix. The exit status of every command is one of `STATUSES`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType, ModuleType
from typing import Any

from ascend_passes import __version__
from ascend_passes.cli.arguments import Parser, UsageError, examples_text
from ascend_passes.cli.output import shortened
from ascend_passes.cli.waiting import settled, waiting
from ascend_passes.options.errors import ExpectationError

DESCRIPTION = "Graph-compiler passes for dense language models on Ascend NPUs."
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "run": "compile a local Hugging Face model, run it, compare with eager and float64",
        "explain": "compile a local Hugging Face model without running it; say what fired and what "
        "did not",
        "compare": "what is gained and lost between two files of `explain --json`",
        "bisect": "find the rule or pass behind a difference between a model and what is compiled "
        "of it",
        "demo": "build small Qwen3 models (float32, bfloat16, W8A8), compile and compare them",
        "list": "every rule with its sentence",
        "show": "a rule's sentence, pattern, replacement, conditions and graphs",
        "new": "write a rule file to start from",
        "check": "run the checks made from each rule, from one, or from those of a folder",
        "doctor": "what this machine has and what to install",
        "tune": "measure this machine for the cost model",
        "completion": "a script that completes commands, options and rules in bash and zsh",
    }
)
"""Command -> what it does, in a line; its module is loaded when it is called."""
BENCHMARKS: Mapping[str, str] = MappingProxyType(
    {
        "compile": "time our rewriting and Inductor's pattern matcher on the same graphs, and "
        "judge the bars",
        "peers": "time a small model under eager, Inductor and ascend_dense on this machine",
        "comm": "count collectives, bytes and rows with and without FlashComm",
    }
)
OPTIONAL = ("transformers", "compressed_tensors", "safetensors", "accelerate", "matplotlib")
"""Distributions of the extras `models` and `plot`; a command that lacks one says how to get it."""
DONE, NEGATIVE, WRONG_USE, UNEXPECTED, INTERRUPTED, NO_READER = 0, 1, 2, 3, 130, 141
STATUSES: Mapping[int, str] = MappingProxyType(
    {
        DONE: "done, and the answer is yes",
        NEGATIVE: "the answer is no: a model or rule is wrong, a bound or expected count is missed",
        WRONG_USE: "wrong use: an argument, an option, a file or a folder",
        UNEXPECTED: "an error that this program or a library does not explain; see --debug",
        INTERRUPTED: "interrupted",
        NO_READER: "nobody reads stdout any more",
    }
)
EXAMPLES = (
    "ascend-passes demo",
    "ascend-passes explain ./Qwen3-32B --html page.html",
    "ascend-passes run ./Qwen3-32B --option flashcomm=1",
    "ascend-passes explain --help",
)
BENCH_EXAMPLES = (
    "ascend-passes bench compile --layers 64",
    "ascend-passes bench peers --plot peers.png",
    "ascend-passes bench comm --ranks 8",
)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is one of `STATUSES`.

    Args:
        words: the command line without the program's name; None for the process's own.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' bars would interleave with ours
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths need not be text
    try:
        waiting("ascend-passes is loading")
        return run_command(parser().parse_args(words))  # which itself ends where words are wrong
    except BrokenPipeError:
        return no_reader()
    except KeyboardInterrupt:
        return failed("interrupted", INTERRUPTED)
    except Exception as error:
        if "--debug" in (sys.argv if words is None else words):
            settled()
            traceback.print_exc()
        return say_error(error)
    finally:
        settled()


def run_command(arguments: argparse.Namespace) -> int:
    """Run the command; raises UsageError where a rule's code ends the process."""
    waiting("ascend-passes is at work")
    try:
        status = int(arguments.run(arguments))
    except SystemExit as error:
        raise UsageError(f"a rule or a library called sys.exit({error.code!r})") from error
    sys.stdout.flush()  # a reader that is gone is told here, not when Python ends
    return status


def say_error(error: Exception) -> int:
    """Say in one line what went wrong."""
    settled()
    cause = getattr(error, "inner_exception", error)  # what torch.compile wraps
    if isinstance(cause, ExpectationError):
        print(f"error: {cause}", file=sys.stderr)  # the report that shows it is a part of it
        return NEGATIVE
    if isinstance(cause, ImportError) and (hint := import_hint(cause)):
        return failed(hint)
    if is_ours(cause):
        return failed(str(cause))
    text = f"unexpected {type(cause).__name__}: {cause}"
    return failed(f"{shortened(text)} (--debug shows the traceback)", UNEXPECTED)


def parser() -> Parser:
    """The parser of all commands that this installation has."""
    statuses = "; ".join(f"{status}: {meaning}" for status, meaning in STATUSES.items())
    epilog = f"{examples_text(EXAMPLES)}\n\nexit status: {statuses}"
    top = Parser(prog="ascend-passes", description=DESCRIPTION, epilog=epilog)
    add_debug(top, False)
    top.add_argument("--version", action="version", version=f"ascend-passes {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for name, does in COMMANDS.items():
        add_command(commands, name, name, does)
    bench = commands.add_parser(
        "bench", help="measure the passes", epilog=examples_text(BENCH_EXAMPLES)
    )
    benchmarks = bench.add_subparsers(
        required=True, metavar="BENCHMARK", parser_class=CommandParser
    )
    for name, does in BENCHMARKS.items():
        add_command(benchmarks, name, f"bench_{name}", does)
    return top


class CommandParser(Parser):
    """The parser of a command, whose module is loaded when its words are to be read."""

    module = ""
    """Its name in `ascend_passes.cli`; empty once it is loaded."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, which calls this for the command that was chosen alone."""
        self.load()
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.refuse_words(rest)
        return found, rest

    def load(self) -> None:
        """Take over what the command's module says."""
        if not self.module:
            return
        command: ModuleType = importlib.import_module(f"ascend_passes.cli.{self.module}")
        self.module, self.description = "", command.__doc__
        self.epilog = examples_text(command.EXAMPLES)
        command.add_arguments(self)
        add_debug(self, argparse.SUPPRESS)
        self.set_defaults(run=command.run, every_command=whole_parser)


def whole_parser() -> Parser:
    """The parser with the arguments of all commands."""
    made = parser()
    load_below(made)
    return made


def load_below(parser: argparse.ArgumentParser) -> None:
    """Load the commands below a parser."""
    for action in parser._actions:
        for inner in (
            action.choices.values() if isinstance(action, argparse._SubParsersAction) else ()
        ):
            inner.load()
            load_below(inner)


def add_command(
    commands: argparse._SubParsersAction[CommandParser], name: str, module: str, does: str
) -> None:
    """Add the command in `cli/<module>.py`."""
    if find_spec(f"ascend_passes.cli.{module}") is not None:
        commands.add_parser(name, help=does).module = module


def add_debug(parser: argparse.ArgumentParser, default: object) -> None:
    """`--debug`, before the command or behind it."""
    parser.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of an error"
    )


def is_ours(error: BaseException) -> bool:
    """Whether the error's text is written for the user: options, rules, models."""
    return type(error).__module__.startswith("ascend_passes.")


def import_hint(error: ImportError) -> str:
    """What to install; nothing where something else does not import."""
    name = (error.name or "").partition(".")[0]
    if name not in OPTIONAL:
        return ""
    extra = "plot" if name == "matplotlib" else "models"
    return f"this command needs {name}; install it with `pip install 'ascend-passes[{extra}]'`."


def failed(text: str, status: int = WRONG_USE) -> int:
    """Say on stderr what is wrong, in one line."""
    print(f"error: {shortened(text)}", file=sys.stderr)
    return status


def no_reader() -> int:
    """End quietly, and let Python's last flush of stdout go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return NO_READER


if __name__ == "__main__":
    sys.exit(main())
