"""The command line: `ascend-passes COMMAND` or `python -m ascend_passes COMMAND`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType

DESCRIPTION = "Graph-compiler passes for dense language models on Ascend NPUs."
COMMANDS = ("run", "explain", "bisect", "demo", "list", "show", "new", "check", "doctor", "tune")
BENCHMARKS = ("compile", "comm")
OPTIONAL = ("transformers", "compressed_tensors", "safetensors", "accelerate", "matplotlib")
"""Distributions of the extras `models` and `plot`; a command that lacks one says how to get it."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; 0 is success, 1 a negative answer, 2 a wrong use.

    Args:
        words: the command line without the program's name; None for the process's own.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' bars would interleave with ours
    arguments = parser().parse_args(words)
    try:
        return int(arguments.run(arguments))
    except ImportError as error:
        return failed(import_hint(error))
    except Exception as error:
        cause = getattr(error, "inner_exception", error)  # what torch.compile wraps
        if not is_ours(cause):
            raise
        return failed(str(cause))


def parser() -> argparse.ArgumentParser:
    """The parser of all commands that this installation has."""
    top = argparse.ArgumentParser(prog="ascend-passes", description=DESCRIPTION)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        add_command(commands, name, name)
    bench = commands.add_parser("bench", help="measure the passes")
    benchmarks = bench.add_subparsers(required=True, metavar="BENCHMARK")
    for name in BENCHMARKS:
        add_command(benchmarks, name, f"bench_{name}")
    return top


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, module: str
) -> None:
    """Add the command in `commands/<module>.py`."""
    if find_spec(f"ascend_passes.commands.{module}") is None:
        return
    command: ModuleType = importlib.import_module(f"ascend_passes.commands.{module}")
    described = command.__doc__ or ""
    added = commands.add_parser(name, help=command.HELP, description=described)
    command.add_arguments(added)
    added.set_defaults(run=command.run)


def is_ours(error: Exception) -> bool:
    """Whether the error's text is written for the user: options, rules, models."""
    return type(error).__module__.startswith("ascend_passes.")


def import_hint(error: ImportError) -> str:
    """What to install; a broken import of anything else is raised again."""
    name = (error.name or "").partition(".")[0]
    if name not in OPTIONAL:
        raise error
    extra = "plot" if name == "matplotlib" else "models"
    return f"this command needs {name}; install it with `pip install 'ascend-passes[{extra}]'`."


def failed(text: str) -> int:
    """Say on stderr what is wrong."""
    print(f"error: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
