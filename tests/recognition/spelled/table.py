"""What is asked of a spelling: its inputs, what it becomes, and how near its numbers are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

BF16, F32 = torch.bfloat16, torch.float32
Given = tuple[Tensor, ...]


@dataclass(frozen=True)
class Spelled:
    """One spelling."""

    function: Callable[..., Any]
    """Of tensors."""
    inputs: Callable[[torch.dtype, int], Given]
    """A dtype and a number of tokens -> its inputs."""
    fires: dict[str, int]
    """The recognitions that it has to be counted as; none for a near miss."""
    kinds: tuple[torch.dtype, ...] = (BF16, F32)
    """The dtypes that its operator takes."""
    bound: float = 2.0
    """Units in the last place of the largest number of a row, from the value in float64."""
    dynamic: bool = True
    """Whether it may have a symbolic number of tokens: its own sizes are none of them."""
    kept: int = 0
    """How many of its last inputs are parameters of a model."""
    left: str = ""
    """Why it stays spelled out today; it should not."""
    of_one: dict[str, int] = field(default_factory=dict)
    """What it is counted as with one token, where that is something else."""
    inside: frozenset[str] = frozenset()
    """Of a near miss: what it has inside that is right all the same."""
    quiet: bool = False
    """Of a near miss: whether nothing of it looks like the operator, so that nothing is told."""


Table = dict[str, Spelled]


def entry(table: Table, inputs: Callable[..., Given], *rules: str, **more: Any) -> Callable:
    """Puts a function into a table under its own name."""

    def put(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__.strip("_")
        assert name not in table, f"two spellings are called {name}"
        fires = {rule: rules.count(rule) for rule in rules}
        table[name] = Spelled(function, inputs, fires, **more)
        return function

    return put


def put_all(table: Table, functions: dict[str, Callable], *given: Any, **more: Any) -> None:
    """Puts functions that differ in one part into a table, under names of that part."""
    for name, function in functions.items():
        assert name not in table, f"two spellings are called {name}"
        fires = {rule: given[1:].count(rule) for rule in given[1:]}
        table[name] = Spelled(function, given[0], fires, **more)


def source_of(seed: int) -> torch.Generator:
    """Random numbers that are always the same ones."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, kind: torch.dtype, seed: int = 0) -> Tensor:
    """Normal numbers, none of them near zero."""
    found = torch.randn(shape, generator=source_of(seed))
    return (found + 0.1 * found.sign()).to(kind)


def positive(*shape: int, kind: torch.dtype = F32, seed: int = 1) -> Tensor:
    """Numbers from 1/2 to 3/2, for gains and scales."""
    return (torch.rand(shape, generator=source_of(seed)) + 0.5).to(kind)


def integers(*shape: int, seed: int = 2) -> Tensor:
    """int8 numbers."""
    return torch.randint(-127, 128, shape, generator=source_of(seed), dtype=torch.int8)
