"""`bisect MODEL`: find the rule or pass that makes a compiled model compute something else."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ascend_passes.cli.arguments import add_input, add_json, add_options, read_options
from ascend_passes.cli.output import print_json, progress
from ascend_passes.cli.run import random_prompt
from ascend_passes.cli.waiting import settled
from ascend_passes.compile.bisect import BisectError, Switch, culprits, switched_off
from ascend_passes.compile.option_values import checked_options

EXAMPLES = (
    "ascend-passes bisect ./Qwen3-0.6B",
    "ascend-passes bisect model.py:build --bound 1e-3",
)
SAME_FORMULA = 1e-9
"""Relative distance in float64 up to which two graphs compute the same; another order of sums gives
1e-12."""
Target = tuple[Callable[..., Any], Callable[[Callable[..., Any]], Any]]
"""A model, and a function that calls what it was compiled to."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bisect`."""
    parser.add_argument(
        "model",
        help="local Hugging Face model directory, or FILE.py:FUNCTION, a function without "
        "arguments that returns the model and a tuple of its arguments",
    )
    parser.add_argument("--dtype", help="of a directory's model (default: the checkpoint's)")
    parser.add_argument(
        "--bound",
        type=float,
        help="compare in the model's own dtype, captures and all, and accept this relative "
        "difference (default: compare formulas in float64, where rounding plays no part)",
    )
    add_input(parser)
    add_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where results do not differ, 1 where a culprit was found.

    Raises:
        BisectError: no such model, or results differ with everything switched off.
        ModelError, OptionError: as in `cli.run.run`.
    """
    options = read_options(arguments.option)
    checked_options(options)
    with progress("bisect") as stage, torch.no_grad():
        stage("load", 0, 1)
        model, call = target(arguments)
        tried: list[Outcome] = []

        def differs(options: Mapping[str, Any]) -> bool:
            stage("compile and compare", len(tried), len(tried) + 1)
            tried.append(outcome(model, call, options, arguments.bound))
            return tried[-1].differs

        found = tuple(culprits(options, differs))
    if arguments.json:
        culprit = [vars(one) for one in found]
        print_json({**vars(tried[0]), "culprits": culprit, "comparisons": len(tried)})
    else:
        settled()
        print("\n".join(lines(found, tried[0], len(tried))))
    return 1 if found else 0


@dataclass(frozen=True)
class Outcome:
    """How one compilation compares with the uncompiled model."""

    distance: float | None
    """Of the magnitude of the results; None where the compiled model does not run."""
    error: str
    bound: float

    @property
    def differs(self) -> bool:
        """Whether it is further away than is accepted; NaN is."""
        return self.distance is None or not self.distance <= self.bound

    def __str__(self) -> str:
        if self.distance is None:
            return f"the compiled model fails: {self.error}"
        verb = "differ" if self.differs else "agree: they differ"
        return (
            f"results {verb} by {self.distance:.3g} of their magnitude, "
            f"at most {self.bound:g} is accepted"
        )


def outcome(
    model: Callable[..., Any],
    call: Callable[[Callable[..., Any]], Any],
    options: Mapping[str, Any],
    bound: float | None,
) -> Outcome:
    """Compile and compare: formulas in float64, or under a bound results in their own dtype."""
    from ascend_passes.models.outcome import formula_distance, own_distance

    measure = formula_distance if bound is None else own_distance
    accepted = SAME_FORMULA if bound is None else bound
    try:
        return Outcome(measure(model, call, options), "", accepted)
    except RuntimeError as error:
        return Outcome(None, str(error).partition("\n")[0], accepted)


def lines(found: tuple[Switch, ...], first: Outcome, comparisons: int) -> list[str]:
    """What a person reads."""
    if not found:
        return [str(first)]
    off = switched_off({}, found)
    words = " ".join(f"--option {name}={text}" for name, text in off.items() if text)
    told = [f"culprit: {one}" for one in found]
    return [str(first), *told, f"right with {words} ({comparisons} comparisons)"]


def target(arguments: argparse.Namespace) -> Target:
    """The model that is named, and how it is called; errors as in `run`."""
    name, colon, function = arguments.model.rpartition(":")
    if colon and name.endswith(".py"):
        return of_function(Path(name), function)
    return of_directory(arguments)


def of_function(file: Path, name: str) -> Target:
    """What a user's function returns."""
    if not file.is_file():
        raise BisectError(f"{file} is no file; give FILE.py:FUNCTION.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise BisectError(f"{file} has no function {name!r}.")
    made = function()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], tuple)):
        raise BisectError(f"{name} in {file} must return a model and a tuple of its arguments.")
    model, given = made
    return model, partial(call_with_copies, given)


def call_with_copies(given: tuple[Any, ...], forward: Callable[..., Any]) -> Any:
    """Call with copies, so that what one call writes the next does not read."""
    return forward(*(one.clone() if isinstance(one, torch.Tensor) else one for one in given))


def of_directory(arguments: argparse.Namespace) -> Target:
    """A checkpoint's model; a call is a prefill and one decode step."""
    from ascend_passes.models.generate import logits_of, new_cache
    from ascend_passes.models.load import load_model

    model = load_model(Path(arguments.model), arguments.dtype, "cpu")
    prompt = random_prompt(model, (arguments.batch, arguments.prompt_length), arguments.seed)

    def call(forward: Callable[..., Any]) -> Any:
        cache = new_cache(model, arguments.batch, arguments.prompt_length + 1)
        return logits_of(forward, model, cache, prompt, prompt[:, -1:])

    return model, call
