"""Arguments that several commands share, and the types that refuse wrong ones."""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from ascend_passes.cli.limit import LOAD_SECONDS, limited
from ascend_passes.cli.output import shortened
from ascend_passes.options.types import OptionError, nearest, parse, shown, unknown
from ascend_passes.options.value import Options

SHAPES = {"auto": None, "static": False, "dynamic": True}
"""`--shapes` -> `torch.compile`'s `dynamic`."""
DEVICES = ("cpu", "cuda", "npu")
MOST_SEQUENCES, MOST_TOKENS = 4096, 131072
"""Of one prompt: far above what the models here take."""
MOST_SECONDS = 86400
SEEDS = 2**63
EXAMPLES_BEGIN = "examples:"


class UsageError(ValueError):
    """Arguments that this command cannot have; the text names the fix."""


class HelpText(argparse.HelpFormatter):
    """Wraps sentences and leaves examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = (
            one if one.startswith(EXAMPLES_BEGIN) else fill(one, width, indent)
            for one in text.split("\n\n")
        )
        return "\n\n".join(parts)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest name that would be right."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        keywords.setdefault("formatter_class", HelpText)
        super().__init__(*arguments, **keywords)

    def refuse_words(self, words: Sequence[str]) -> NoReturn:
        """End with exit status 2, with the flag that is nearest to the first unknown one."""
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        known = {name.strip("-"): name for name in self._option_string_actions}
        hints = (nearest(flag.strip("-"), known, known.get) for flag in flags)
        hint = next(filter(None, hints), "").rstrip(".")
        self.error(f"unrecognized arguments: {' '.join(words)}{hint and '.' + hint}")

    def error(self, message: str) -> NoReturn:
        """End with exit status 2."""
        self.exit(2, f"error: {shortened(message)} (see `{self.prog} --help`)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        valid = f"valid: {', '.join(names)}.{nearest(value, names)}".rstrip(".")
        raise argparse.ArgumentError(action, f"{shown(value)} does not exist; {valid}")


def examples_text(examples: Sequence[str]) -> str:
    """Examples as `--help` prints them."""
    return "\n".join([EXAMPLES_BEGIN, *(f"  {one}" for one in examples)])


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`: the result for machines."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_html(parser: argparse.ArgumentParser) -> None:
    """`--html FILE`: the reports as a page."""
    parser.add_argument(
        "--html", type=path_name, metavar="FILE", help="write one page that needs no network"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--option NAME=VALUE`, as often as needed."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of ascend_dense, such as flashcomm=1; see docs/options.md",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """The directory of a model, and the input to compile it for."""
    parser.add_argument("directory", type=path_name, help="local Hugging Face model directory")
    parser.add_argument("--dtype", help="bfloat16, float16 or float32 (default: the checkpoint's)")
    parser.add_argument(
        "--device", type=device, default="cpu", help="cpu, cuda, cuda:1 or npu (default: cpu)"
    )
    add_input(parser)
    add_options(parser)
    add_json(parser)


def add_input(parser: argparse.ArgumentParser) -> None:
    """Sizes and seed of the prompt."""
    parser.add_argument(
        "--batch", type=whole_number(MOST_SEQUENCES), default=1, help="sequences (default: 1)"
    )
    parser.add_argument(
        "--prompt-length",
        type=whole_number(MOST_TOKENS),
        default=16,
        help="tokens of the prompt (default: 16)",
    )
    add_seed(parser, "of the random prompt (default: 0)")
    parser.add_argument(
        "--shapes",
        choices=SHAPES,
        default="auto",
        help="sizes in the compiled graphs: auto lets torch.compile decide (default)",
    )


def add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    """`--seed N`."""
    parser.add_argument("--seed", type=whole_number(SEEDS - 1, lowest=0), default=0, help=what)


def whole_number(highest: int, lowest: int = 1) -> Callable[[str], int]:
    """The type of whole numbers in a range."""

    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number") from None
        if number < lowest:
            raise argparse.ArgumentTypeError(f"{shown(text)} must be at least {lowest}")
        if number > highest:
            raise argparse.ArgumentTypeError(f"{shown(text)} must be at most {highest}")
        return number

    return whole


def time_limit(text: str) -> float:
    """A time limit."""
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit <= MOST_SECONDS:
        wanted = f"a number of seconds above 0, up to {MOST_SECONDS}"
        raise argparse.ArgumentTypeError(f"{shown(text)} is not {wanted}")
    return limit


def path_name(text: str) -> Path:
    """A file or folder by its name, which need not exist."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; write . for the current folder")
    try:
        Path(text).exists()
    except (OSError, ValueError) as error:  # too long, or a character that no name can have
        wrong = f"{shown(text)} names no file or folder ({cause(error)})"
        raise argparse.ArgumentTypeError(wrong) from None
    return Path(text)


def device(text: str) -> str:
    """A device that this machine has: `cpu`, `cuda`, `cuda:1`, `npu`."""
    kind, colon, index = text.partition(":")
    device_kind(kind, text)
    if kind == "cpu" and colon:
        raise argparse.ArgumentTypeError(f"{shown(text)} has a number, but there is one cpu")
    there = device_count(kind) if kind != "cpu" else 1
    if colon and not (index.isdecimal() and len(index) < 5 and int(index) < there):
        raise argparse.ArgumentTypeError(f"{shown(text)}: {kind} devices are 0 to {there - 1}")
    return text


def device_kind(text: str, given: str | None = None) -> str:
    """`cpu`, or a kind of accelerator that this machine has."""
    if text not in DEVICES:
        hint = nearest(text, DEVICES)
        wrong = f"{shown(given if given is not None else text)} is none of {', '.join(DEVICES)}"
        raise argparse.ArgumentTypeError(f"{wrong}{hint and '.' + hint}")
    if text != "cpu" and not device_count(text):
        raise argparse.ArgumentTypeError(
            f"there is no {text} device here; take cpu, or ask `ascend-passes doctor`"
        )
    return text


def device_count(kind: str) -> int:
    """How many devices of an accelerator type this machine has."""
    import torch  # only where an accelerator is named: `--help` needs none of it

    module = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None else 0


def check_writable(path: Path) -> None:
    """Raise UsageError where a file cannot be written; one that is there is not changed."""
    try:
        known = path.exists()
        if known and not path.is_file():
            raise UsageError(f"{path} is no file; name a file to write.")
        with path.open("ab"):
            pass
        if not known:
            path.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        wrong = f"{shown(str(path))} cannot be written ({cause(error)}); name another."
        raise UsageError(wrong) from None


def check_plot(path: Path) -> None:
    """Raise UsageError where a plot cannot be written, ImportError where nothing draws here."""
    if path.suffix != ".png":
        raise UsageError("--plot draws a PNG; end its name in .png.")
    check_writable(path)
    importlib.import_module("matplotlib")


def save_text(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({cause(error)}); name another.") from None


def cause(error: Exception) -> str:
    """What went wrong, without the file's name."""
    return str(getattr(error, "strerror", None) or error)


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`["flashcomm=1"]` as a dictionary of typed values.

    Raises:
        OptionError: an unknown option, a missing `=`, or a value of the wrong type.
    """
    known = {field.name: field for field in fields(Options)}
    values = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if name not in known:
            raise OptionError(unknown(name, known))
        if not separator:
            raise OptionError(f"--option {shown(pair)} has no value; write {name}=VALUE.")
        values[name] = parse(known[name], text, f"--option {name}")
    return values


def command_options(given: Mapping[str, Any]) -> Options:
    """The options of a command, the environment's among them.

    Raises:
        OptionError, RuleError: as `checked_options`; also where a rule file does not end.
    """
    # It knows every rule and pass, and loads torch, which `--help` does without.
    from ascend_passes.compile.option_values import checked_options

    with limited(LOAD_SECONDS, "loading the rule files of `rule_path`"):
        return checked_options(given)
