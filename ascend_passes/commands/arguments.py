"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ascend_passes.options import OptionError, Options, parse, unknown

SHAPES = {"auto": None, "static": False, "dynamic": True}
"""`--shapes` -> `torch.compile`'s `dynamic`."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`: the result for machines."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


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
    parser.add_argument("directory", type=Path, help="local Hugging Face model directory")
    parser.add_argument("--dtype", help="bfloat16, float16 or float32 (default: the checkpoint's)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or npu (default: cpu)")
    add_input(parser)
    add_options(parser)
    add_json(parser)


def add_input(parser: argparse.ArgumentParser) -> None:
    """Sizes and seed of the prompt."""
    parser.add_argument("--batch", type=positive, default=1, help="sequences (default: 1)")
    parser.add_argument(
        "--prompt-length", type=positive, default=16, help="tokens of the prompt (default: 16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random prompt (default: 0)")
    parser.add_argument(
        "--shapes",
        choices=SHAPES,
        default="auto",
        help="sizes in the compiled graphs: auto lets torch.compile decide (default)",
    )


def positive(text: str) -> int:
    """A whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


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
            raise OptionError(f"--option {pair!r} has no value; write {name}=VALUE.")
        values[name] = parse(known[name], text, f"--option {name}")
    return values
