"""Sizes and numbers that a pattern is traced with; each occurs once, so that it tells its place."""

from __future__ import annotations

from typing import Any

import torch

from ascend_passes.engine.rule import LIST, Rule, Spelling

PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)
"""Example numbers of named sizes: far from 0 and 1, which would be specialised, and no literal of a
rule."""


LEADING = (3, 5, 7)
"""Example numbers of the sizes that `...` stands for."""


FLOATS = tuple((2 * index + 1) / 512 + 0.25 for index in range(16))
"""Stand-ins of float scalars: exact in float32, since composite kernels round Python numbers to
it."""


INTEGERS = tuple(100_003 + 2 * index for index in range(16))
STRINGS = tuple(f"string_{index}" for index in range(16))


def example_shapes(spelling: Spelling, leading: int) -> list[tuple[int, ...]]:
    """Shapes of the inputs with a prime for each named size."""
    names = dict.fromkeys(size.name for item in spelling.inputs for size in item.sizes if size.name)
    numbers = dict(zip(names, PRIMES, strict=False))
    return [
        (
            *(LEADING[:leading] if item.any_rank else ()),
            *(size.factor * numbers.get(size.name, 1) for size in item.sizes),
        )
        for item in spelling.inputs
    ]


def example_scalars(rule: Rule, spelling: Spelling, which: int = 0) -> dict[str, Any]:
    """A value for each scalar that occurs nowhere else in the pattern.

    A list is one of those that the rule gives, `which`: another one might mean nothing.
    """
    stocks = {float: iter(FLOATS), int: iter(INTEGERS), str: iter(STRINGS)}
    return {
        name: list(rule.values[name][which]) if kind == LIST else next(stocks[kind])
        for name, kind in spelling.scalars.items()
    }


def tried_scalars(rule: Rule, spelling: Spelling) -> dict[str, Any]:
    """`example_scalars`, and the rule's own values where it has some."""
    return {
        name: rule.values[name][0] if name in rule.values else example
        for name, example in example_scalars(rule, spelling).items()
    }


def input_dtypes(spelling: Spelling, dtype: torch.dtype) -> list[torch.dtype]:
    """The dtype of each input when untyped ones are `dtype`."""
    return [item.dtype or dtype for item in spelling.inputs]


def has_any_rank(spelling: Spelling) -> bool:
    """Whether a spelling declares `...` somewhere."""
    return any(item.any_rank for item in spelling.inputs)
