"""`bisect MODEL`: find the rule or pass that makes a compiled model compute something else."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ascend_passes.cli.arguments import (
    UsageError,
    add_input,
    add_json,
    add_options,
    command_options,
    read_options,
)
from ascend_passes.cli.output import print_json, progress
from ascend_passes.cli.run import random_prompt
from ascend_passes.cli.waiting import settled
from ascend_passes.compile.bisect import BisectError, Switch, culprits, switched_off
from ascend_passes.options.types import nearest, shown

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
        type=relative_bound,
        metavar="RELATIVE",
        help="compare in the model's own dtype, captures and all, and accept this relative "
        "difference (default: compare formulas in float64, where rounding plays no part)",
    )
    add_input(parser)
    add_options(parser)
    add_json(parser)


def relative_bound(text: str) -> float:
    """A relative difference."""
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if not 0 <= bound < math.inf:
        wanted = "no relative difference; write a number such as 1e-3"
        raise argparse.ArgumentTypeError(f"{shown(text)} is {wanted}")
    return bound


def run(arguments: argparse.Namespace) -> int:
    """0 where results do not differ, 1 where a culprit was found.

    Raises:
        BisectError: no such model, or results differ with everything switched off.
        ModelError, OptionError: as in `cli.run.run`.
    """
    options = read_options(arguments.option)
    command_options(options)
    with progress("bisect") as stage, torch.no_grad():
        stage("load", 0, 1)
        model, call = target(arguments)
        check_runs(model, call)
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


def check_runs(model: Callable[..., Any], call: Callable[[Callable[..., Any]], Any]) -> None:
    """Raise BisectError where the model itself fails, before anything is compiled."""
    try:
        call(model)
    except Exception as error:  # whatever a user's model raises
        raise BisectError(
            f"the model fails uncompiled too ({error_said(error)}); mend it, or its arguments."
        ) from error


def error_said(error: BaseException) -> str:
    """An error's kind and its first line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


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
    if not colon and function.endswith(".py"):
        raise BisectError(f"{function} needs the name of a function: {function}:FUNCTION.")
    if not colon or not name.endswith(".py"):
        return of_directory(arguments)
    if arguments.dtype is not None:
        raise UsageError("--dtype is for a directory's model; cast the model in the function.")
    return of_function(Path(name), function)


def of_function(file: Path, name: str) -> Target:
    """What a user's function returns."""
    if not file.is_file():
        raise BisectError(f"{file} is no file; give FILE.py:FUNCTION.")
    try:
        return made_by(file, name)
    except BisectError:
        raise
    except Exception as error:  # whatever a user's file raises
        raise BisectError(f"{file}:{name} raised {error_said(error)}; mend it.") from error


def made_by(file: Path, name: str) -> Target:
    """What a function of a file returns; raises what it raises, and BisectError for no model."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        there = [one for one, value in vars(module).items() if inspect.isfunction(value)]
        named = f" It has {', '.join(there)}." if there else ""
        raise BisectError(f"{file} has no function {name!r}.{nearest(name, there) or named}")
    made = function()
    right = isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], tuple)
    if not right or not callable(made[0]):
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
