"""What a spelling is once it is compiled for matching: its steps, and what each of them reads."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ascend_passes.engine.rule import Rule, RuleError, Spelling

COMMUTATIVE = frozenset({torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor})


class NoFormError(RuleError):
    """A combination of choices for which the pattern returns None, maybe for one dtype alone."""


@dataclass(frozen=True)
class Term:
    """A use of another term's value."""

    index: int


@dataclass(frozen=True)
class InputUse:
    """A use of an input."""

    name: str


@dataclass(frozen=True)
class ScalarUse:
    """A use of a scalar."""

    name: str


@dataclass(frozen=True, eq=False)
class SizeUse:
    """A use of a number computed from sizes of inputs."""

    text: str
    function: Callable[..., Any]
    sources: tuple[tuple[str, int], ...]
    """(input, dim) of each argument of `function`."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operator call of a template."""

    target: Any
    arguments: tuple[Any, ...]
    commutes: bool


@dataclass(frozen=True, eq=False)
class Template:
    """A compiled spelling."""

    rule: Rule
    spelling: Spelling
    dtype: torch.dtype
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    """Index of the step behind each value that the pattern returns."""
    anchor: int
    """Index of the step where matching starts: the last operator call of the pattern."""
    anchor_rank: int
    ranks: dict[str, int]
    """Rank of each input."""

    @property
    def name(self) -> str:
        """See `Rule.name_of`."""
        return self.rule.name_of(self.spelling)

    @functools.cached_property
    def targets(self) -> frozenset[Any]:
        """The operators that a graph must have for the template to match."""
        return frozenset(step.target for step in self.steps if step.target is not operator.getitem)


def literal(argument: Any) -> Any:
    """A literal as a key: a list of ints as a tuple; None for a list of anything else."""
    if not isinstance(argument, (list, tuple)):
        return argument
    return tuple(argument) if argument and all(type(one) is int for one in argument) else None


def shape_of(item: Any) -> Any:
    """What two traces of a spelling share of a step or an argument."""
    if isinstance(item, Step):
        return item.target, shape_of(item.arguments)
    if isinstance(item, tuple):
        return tuple(map(shape_of, item))
    return (item.text, item.sources) if isinstance(item, SizeUse) else item
