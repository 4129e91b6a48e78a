"""A rule: a pattern in plain PyTorch, its replacement, and the conditions under which they are
equal.

The functions declare everything. A parameter `x: Annotated[Tensor, "N H"]` is a tensor whose sizes
have names; equal names are equal sizes, `"... H"` is any rank, `"N 2*H"` a multiple, `"1"` a fixed
size. A dtype after the sizes fixes it (`Annotated[Tensor, "H", torch.float32]`); tensors without
one share the dtype that the rule is tried for. A keyword-only parameter is a scalar that a match
binds: a number, a string such as a group's name, or a list of ints. `A | None`, `A | B` and
`Literal` are choices, and a function is a spelling for each combination of them (see `variants`).
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ascend_passes.engine.variants import ACTIVATION_DTYPES, Combination, variants, with_constants
from ascend_passes.ir.proof import prove
from ascend_passes.options.errors import RuleError as RuleError

SIZE = re.compile(r"^(?:(?P<factor>\d+)\*)?(?P<name>[A-Za-z_]\w*)$|^(?P<fixed>\d+)$")
ELLIPSIS = "..."
LIST = list[int]
SCALARS = (int, float, str, LIST)
"""What a scalar may be declared as; other kinds are choices, see `variants`."""
Condition = tuple[Any, str]
KINDS = ("recognize", "fuse")


@dataclass(frozen=True)
class Size:
    """One size in a declaration: `factor * name`, or a fixed number when `name` is empty."""

    name: str
    factor: int = 1


@dataclass(frozen=True)
class Input:
    """A tensor parameter of a pattern."""

    name: str
    sizes: tuple[Size, ...]
    any_rank: bool = False
    """Whether more leading sizes may stand in front of `sizes`."""
    dtype: torch.dtype | None = None
    """The dtype it must have; None for the dtype that the rule is tried for."""


@dataclass(frozen=True, eq=False)
class Spelling:
    """One way to write the pattern."""

    name: str
    """The function's, with its choices: `pattern[zero,bias]`."""
    function: Callable[..., Any]
    """Of the inputs, in order, and the scalars."""
    inputs: tuple[Input, ...]
    scalars: Mapping[str, type]
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Other parameters of the pattern -> their values: None for an absent input, or a choice."""
    labels: tuple[str, ...] = ()
    """The choices in words."""
    alone: bool = True
    """Whether its function is no other spelling."""


@dataclass(frozen=True, eq=False)
class Rule:
    """See `docs/write-a-rule.md`.

    Args:
        pattern: a function, or several with the same meaning; each may leave out parameters that
            the replacement gives a default. It returns None for a combination of its choices that
            does not exist.
        replacement: a function of the same parameters that returns as many values. An absent input
            is None, and it may ask for each `Literal` of the pattern; so may `where`.
        where: yields `(condition, reason)` over any of the inputs (fake tensors), the named sizes
            and the scalars. Every condition must hold; one over symbolic sizes must be provable.
        examples: named sizes for tests, documentation and benchmarks; at least one.
        dtypes: what untyped tensors may be.
        tolerance: units in the last place, at the largest magnitude of a row and in the rule's
            dtype, by which the replacement may differ from the pattern in float64; more where the
            pattern itself does; integers by so many. Endless where the pattern quantizes or
            rounds inside: then by one step of int8 more than the pattern.
        default: whether the rule is on unless asked for.
        after: rules that get what they can before this one starts, where both want a node.
        limit: what the operator does not give, told where a value inside has other users.
        hides_nan: whether a NaN that the pattern would hand on ends in a number; off under the
            option `keep_nan`.
        shares: whether values inside the pattern may have other users, for which they then stay.
        kind: "recognize" for a rule that brings a spelling to an operator, before rows are sharded,
            else "fuse"; filled in by the registry, from the folder's name, where it is empty.
        without: names of spellings that are switched off; filled in by the registry.
        name: the file's name; filled in by the registry.
        source: the file's path; filled in by the registry.

    Raises:
        RuleError: a parameter without a declaration, sizes that cannot be read, no examples.
    """

    pattern: Callable[..., Any] | Sequence[Callable[..., Any]]
    replacement: Callable[..., Any]
    where: Callable[..., Iterator[Condition]] | None = None
    examples: Sequence[Mapping[str, int]] = ()
    dtypes: tuple[torch.dtype, ...] = ACTIVATION_DTYPES
    tolerance: float = 1.0
    default: bool = True
    shares: bool = False
    hides_nan: bool = False
    limit: str = ""
    after: tuple[str, ...] = ()
    kind: str = ""
    without: frozenset[str] = frozenset()
    name: str = ""
    source: str = ""
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Scalar name -> values for tests, where the defaults of `verify` do not fit; of a list two
    that the pattern can be traced with."""

    def __post_init__(self) -> None:
        if not self.examples:
            raise RuleError("a rule needs examples=[{size name: number}]; tests are made from them")
        missing = {name for spelling in self.spellings for name in size_names(spelling)}
        missing -= set(self.examples[0])
        if missing:
            raise RuleError(f"examples[0] has no number for {', '.join(sorted(missing))}")
        for name in self.lists:
            if len(self.values.get(name, ())) < 2:
                raise RuleError(
                    f"{name} is a list; a rule is traced with two, so give "
                    f"values={{{name!r}: [[...], [...]]}}"
                )
        if self.kind not in (*KINDS, "", Path(self.source).parent.name):
            raise RuleError(f"kind is {self.kind!r}; it is one of {', '.join(map(repr, KINDS))}")

    @property
    def lists(self) -> tuple[str, ...]:
        """The scalars that are lists."""
        every = (item for spelling in self.spellings for item in spelling.scalars.items())
        return tuple(dict.fromkeys(name for name, kind in every if kind == LIST))

    @cached_property
    def spellings(self) -> tuple[Spelling, ...]:
        """The pattern's spellings, in the order of their declaration, but those left out."""
        functions = [self.pattern] if callable(self.pattern) else list(self.pattern)
        every = (spelling for function in functions for spelling in read_spellings(function))
        return tuple(spelling for spelling in every if spelling.name not in self.without)

    def name_of(self, spelling: Spelling) -> str:
        """`rule.spelling`, or the rule's name in the place of a function's called `pattern`."""
        short = spelling.name.removeprefix("pattern")
        return self.name + (short if short[:1] in ("", "[") else f".{spelling.name}")

    @cached_property
    def summary(self) -> str:
        """The first sentence of the file's docstring."""
        text = inspect.getmodule(self.replacement).__doc__ or ""
        return text.strip().split("\n\n")[0].replace("\n", " ")


def size_names(spelling: Spelling) -> Iterator[str]:
    """The named sizes of a spelling, repeats included."""
    for item in spelling.inputs:
        yield from (size.name for size in item.sizes if size.name)


@cache
def read_spellings(function: Callable[..., Any]) -> tuple[Spelling, ...]:
    """The spellings that a function stands for; errors as in `Rule`.

    A rule is made again whenever it gets a name or loses a spelling; its functions stay.
    """
    every = list(variants(function))
    found = [read_spelling(function, variant, alone=len(every) == 1) for variant in every]
    existing = tuple(spelling for spelling in found if exists(spelling))
    if not existing:
        raise RuleError(f"{function.__name__} returns None whatever its choices are")
    return existing


def read_spelling(function: Callable[..., Any], variant: Combination, alone: bool) -> Spelling:
    """A spelling from a function's signature; errors as in `Rule`."""
    parameters = inspect.signature(function).parameters
    inputs, scalars = [], {}
    for name, hint in variant.hints.items():
        where = f"parameter {name!r} of {function.__name__}"
        if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            if hint not in SCALARS:
                raise RuleError(
                    f"{where} is a scalar; declare it as int, float, str or list[int], or as a "
                    "choice: bool, torch.dtype or Literal"
                )
            scalars[name] = hint
        else:
            inputs.append(read_input(name, hint, where))
    return Spelling(
        variant.name,
        with_constants(function, tuple(item.name for item in inputs), variant.constants),
        tuple(inputs),
        MappingProxyType(scalars),
        MappingProxyType(dict(variant.constants)),
        variant.labels,
        alone,
    )


def exists(spelling: Spelling) -> bool:
    """Whether the pattern has this combination of choices; it returns None for one that it has not.

    Asked without tensors: one that computes has it.
    """
    if spelling.alone:
        return True
    declared = [SimpleNamespace(dtype=item.dtype) for item in spelling.inputs]
    try:
        return spelling.function(*declared, **dict.fromkeys(spelling.scalars, 1)) is not None
    except Exception:  # whatever an operator says of what is no tensor
        return True


def read_input(name: str, hint: Any, where: str) -> Input:
    """An input from its annotation; errors as in `Rule`."""
    metadata = getattr(hint, "__metadata__", ())
    if not metadata or typing.get_args(hint)[0] is not Tensor or not isinstance(metadata[0], str):
        raise RuleError(f'{where} has no sizes; declare it as Annotated[Tensor, "N H"]')
    words = metadata[0].split()
    any_rank = words[:1] == [ELLIPSIS]
    sizes = tuple(read_size(word, where) for word in words[any_rank:])
    dtype = metadata[1] if len(metadata) > 1 else None
    return Input(name, sizes, any_rank, dtype)


def read_size(word: str, where: str) -> Size:
    """A size from its word; errors as in `Rule`."""
    match = SIZE.match(word)
    if match is None:
        raise RuleError(
            f"{where}: {word!r} is no size; write a name, 2*NAME, a number, or ... first"
        )
    if match["fixed"]:
        return Size("", int(match["fixed"]))
    return Size(match["name"], int(match["factor"] or 1))


def refusal(condition: Condition) -> str | None:
    """The reason of a condition that does not hold, or None."""
    holds, reason = condition
    if prove(holds):
        return None
    return reason if isinstance(holds, bool) else f"{reason} (cannot be proved)"


def conditions(
    rule: Rule, inputs: Mapping[str, Tensor], sizes: Mapping[str, Any], scalars: Mapping[str, Any]
) -> Iterator[Condition]:
    """What `where` yields, called with the parameters that it asks for."""
    if rule.where is None:
        return
    known = {**inputs, **sizes, **scalars}
    wanted = inspect.signature(rule.where).parameters
    yield from rule.where(**{name: known.get(name) for name in wanted})


def replacement_arguments(
    rule: Rule, inputs: Mapping[str, Any], scalars: Mapping[str, Any]
) -> dict[str, Any]:
    """The bound inputs and scalars that the replacement takes."""
    wanted = inspect.signature(rule.replacement).parameters
    lists = {name: list(scalars[name]) for name in rule.lists if name in scalars}
    given = {**inputs, **scalars, **lists}
    return {name: value for name, value in given.items() if name in wanted}
