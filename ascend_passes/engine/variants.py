"""One pattern function that stands for several spellings, one for each combination of its choices.

A parameter `A | None` may be absent, and the function is called with None; `A | B` has either
declaration; a TypeVar with constraints is one choice for all the parameters that it declares, and
TypeVars of one name choose together; a keyword-only `Literal` is a choice among values, operators
among them, `bool` among both, `torch.dtype` among the dtypes of activations.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

ACTIVATION_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Option:
    """One of the things that a parameter may be."""

    parameter: str
    hint: Any
    """The declaration, or None where the parameter is no input here."""
    value: Any
    """What the function gets where the parameter is no input."""
    label: str
    """What a name says of it; empty for what needs no word."""


@dataclass(frozen=True)
class Combination:
    """One combination."""

    name: str
    """The function's, with the labels behind it: `pattern[zero,bias]`."""
    labels: tuple[str, ...]
    hints: Mapping[str, Any]
    """Parameter -> its declaration; without those that are no inputs here."""
    constants: Mapping[str, Any]
    """Parameter that is no input here -> its value: None where it is absent, or the choice."""


def variants(function: Callable[..., Any]) -> Iterator[Combination]:
    """Every combination of what a function's parameters may be, the plainest first."""
    hints = typing.get_type_hints(function, include_extras=True)
    declared = {name: hints.get(name) for name in inspect.signature(function).parameters}
    tied = dict.fromkeys(found for hint in declared.values() for found in variables(hint))
    for words, settled in choices(function, list(tied)):
        options = [options_of(function, *item, settled) for item in declared.items()]
        for combination in itertools.product(*options):
            yield combined(function, words, combination)


def choices(
    function: Callable[..., Any], tied: Sequence[TypeVar]
) -> Iterator[tuple[list[str], dict[TypeVar, Any]]]:
    """What TypeVars may stand for, and the labels of it; those of one name by position."""
    first = {variable.__name__: variable for variable in reversed(tied)}
    ranges = (range(len(variable.__constraints__)) for variable in first.values())
    for positions in itertools.product(*ranges):
        at = dict(zip(first, positions, strict=True))
        chosen = {variable: variable.__constraints__[at[variable.__name__]] for variable in tied}
        words = (alias(function, chosen[first[name]]) for name in reversed(at) if at[name])
        yield list(words), chosen


def combined(
    function: Callable[..., Any], words: list[str], combination: tuple[Option, ...]
) -> Combination:
    """The variant of one option for each parameter."""
    labels = (*words, *(option.label for option in combination if option.label))
    return Combination(
        function.__name__ + (f"[{','.join(labels)}]" if labels else ""),
        labels,
        {o.parameter: o.hint for o in combination if o.hint is not None},
        {o.parameter: o.value for o in combination if o.hint is None},
    )


def options_of(
    function: Callable[..., Any], parameter: str, hint: Any, settled: Mapping[TypeVar, Any]
) -> list[Option]:
    """What a parameter may be; a hint that is no choice, or none at all, is the only option."""
    hint = settled.get(hint, hint) if isinstance(hint, TypeVar) else hint
    values = values_of(hint)
    if values:
        labels = ["", *(said(parameter, value) for value in values[1:])]
        return [Option(parameter, None, *pair) for pair in zip(values, labels, strict=True)]
    absent = [Option(parameter, None, None, "")] if may_be_absent(hint) else []
    found = [settled.get(part, part) for part in parts(hint) if part is not types.NoneType]
    plain = parameter if absent else ""
    labels = [plain, *(f"{parameter}:{alias(function, part)}" for part in found[1:])]
    declared = (
        Option(parameter, missing if part is None else part, None, label)
        for part, label in zip(found, labels, strict=True)
    )
    return [*absent, *declared]


def values_of(hint: Any) -> tuple[Any, ...]:
    """What a parameter chooses among: the members of a `Literal`, both bools, the dtypes of
    activations; nothing for a hint that is no such choice."""
    if hint is bool:
        return (False, True)
    if hint is torch.dtype:
        return ACTIVATION_DTYPES
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


missing = inspect.Parameter.empty
"""The hint of a parameter that has none: an input whose declaration is at fault."""


def said(parameter: str, value: Any) -> str:
    """What a name says of a value that was chosen: of True the parameter alone."""
    return parameter if value is True else f"{parameter}={str(value).removeprefix('torch.')}"


def parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union; anything else is its own."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def variables(hint: Any) -> Iterator[TypeVar]:
    """The TypeVars with constraints in a hint."""
    return (part for part in parts(hint) if isinstance(part, TypeVar) and part.__constraints__)


def may_be_absent(hint: Any) -> bool:
    """Whether a hint allows None."""
    return types.NoneType in parts(hint)


def alias(function: Callable[..., Any], declaration: Any) -> str:
    """The name by which a function's file, or a helper beside it, knows a declaration; its text
    where none does."""
    package = function.__module__.rpartition(".")[0] + "."
    files = (vars(item) for name, item in list(sys.modules.items()) if name.startswith(package))
    known = (item for names in (function.__globals__, *files) for item in names.items())
    return next((name for name, item in known if same(item, declaration)), str(declaration))


def same(item: Any, declaration: Any) -> bool:
    """Whether a file's value is a declaration; other values compare as they like."""
    return type(item) is type(declaration) and bool(item == declaration)


def with_constants(
    function: Callable[..., Any], inputs: tuple[str, ...], constants: Mapping[str, Any]
) -> Callable[..., Any]:
    """The function of the inputs, by position or name; it gets the constants as well."""
    if not constants:
        return function

    @functools.wraps(function)
    def variant(*tensors: Any, **given: Any) -> Any:
        return function(**{**constants, **dict(zip(inputs, tensors, strict=False)), **given})

    return variant
