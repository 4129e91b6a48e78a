"""Draws a program step by step: each is tried on real tensors, and left out where torch refuses it.

Trying gives shapes and dtypes, for the sizes of every call, so that symbolic sizes stay symbolic.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.program import Given, Program, Size, Step, values_of

LARGEST = 50.0
"""Values stay below it, so that float16 products of a row stay finite."""
MOST_ELEMENTS = 20_000
NEWEST = 6
"""Half of all picks are among so many newest values: chains are what rules look for."""
WIDTHS = (1, 2, 4, 8, 16, 16, 32, 32, 64, 64, 128)


class Nothing(Exception):  # noqa: N818  # an outcome, not an error
    """No value fits, or torch refuses the step; the draw goes on with another one."""


class Draw:
    """The program so far, and its values under the sizes of every call."""

    def __init__(self, seed: int, dtype: str, sizes: Sequence[dict[str, int]]) -> None:
        self.random = random.Random(seed)
        self.seed, self.dtype, self.sizes = seed, dtype, tuple(sizes)
        self.given: list[Given] = []
        self.steps: list[Step] = []
        self.results: list[str] = []
        self.rejected = 0
        self.width = self.random.choice(WIDTHS)
        narrow = getattr(torch, dtype)
        self.worlds: list[dict[str, Any]] = [
            {
                "torch": torch,
                "F": torch.nn.functional,
                "DT": narrow,
                "WIDE": torch.float32,
                "self": SimpleNamespace(),
            }
            for _ in sizes
        ]
        self.names: list[str] = []
        self.counter = 0

    # What there is.

    def value(self, name: str, world: int = 0) -> Any:
        """A value of a trial run."""
        if name.startswith("self."):
            return getattr(self.worlds[world]["self"], name[5:])
        return self.worlds[world][name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes under the first set."""
        return tuple(self.value(name).shape)

    def fixed(self, name: str, dim: int = -1) -> int:
        """A size that is the same under all sets.

        Raises:
            Nothing: it is not.
        """
        found = {tuple(self.value(name, i).shape)[dim] for i in range(len(self.worlds))}
        if len(found) != 1:
            raise Nothing
        return int(found.pop())

    def pick(self, fits: Callable[[Tensor], bool], *, state: bool = False) -> str:
        """The name of a tensor that fits, a new one rather than an old one.

        Raises:
            Nothing: there is none.
        """
        fitting = [
            name
            for name in self.names
            if (state or not name.startswith("self."))
            and isinstance(self.value(name), Tensor)
            and fits(self.value(name))
        ]
        if not fitting:
            raise Nothing
        return self.random.choice(fitting[-NEWEST:] if self.random.random() < 0.5 else fitting)

    def rows(self, least: int = 2, most: int = 3) -> str:
        """Rows of the activations' dtype."""
        return self.pick(lambda t: t.dtype == self.worlds[0]["DT"] and least <= t.dim() <= most)

    def like(self, name: str) -> str:
        """A tensor of the same shape and dtype, perhaps the same one."""
        model = self.value(name)
        return self.pick(lambda t: t.shape == model.shape and t.dtype == model.dtype)

    def chance(self, probability: float) -> bool:
        """Whether something happens."""
        return self.random.random() < probability

    def one_of(self, *choices: Any) -> Any:
        """Any of them."""
        return self.random.choice(choices)

    # What is added.

    def give(
        self, role: str, shape: tuple[Size, ...], recipe: str, kind: str = "DT", **more: str
    ) -> str:
        """Something new that the program is given; how steps refer to it."""
        letter = {"input": "x", "kept": "c", "parameter": "p", "buffer": "b"}[role]
        one = Given(f"{letter}{len(self.given)}", role, shape, recipe, kind, **more)
        self.given.append(one)
        program = Program(tuple(self.given), (), (), (), self.dtype, seed=self.seed)
        for sizes, world in zip(self.sizes, self.worlds, strict=True):
            made = values_of(program, one, self.seed, sizes, world["DT"], torch.float32)
            if one.same:
                made = self.value(f"self.{one.same}") if role == "parameter" else made
            if one.place.startswith("self."):
                setattr(world["self"], one.name, made)
            else:
                world[one.name] = made
        self.names.append(one.place)
        return one.place

    def parameter(self, shape: tuple[int, ...], recipe: str, kind: str = "DT") -> str:
        """A parameter or buffer: new, used before, tied to another, or equal to another."""
        alike = [
            one
            for one in self.given
            if one.role in ("parameter", "buffer")
            and (one.shape, one.recipe, one.kind, one.same) == (shape, recipe, kind, "")
        ]
        manner = self.random.random()
        if alike and manner < 0.2:
            return self.random.choice(alike).place
        role = "parameter" if self.chance(0.8) else "buffer"
        if alike and manner < 0.4:
            other = self.random.choice(alike)
            return self.give(role, shape, recipe, kind, equal=other.equal or other.name)
        tied = [one for one in alike if one.role == "parameter"]
        if tied and manner < 0.5:
            return self.give("parameter", shape, recipe, kind, same=self.random.choice(tied).name)
        if recipe == "gain" and manner > 0.85:
            recipe = "ones"
        return self.give(role, shape, recipe, kind)

    def emit(self, operator: str, text: str, *arguments: str, results: int = 1) -> list[str]:
        """Add a step.

        Raises:
            Nothing: torch refuses it, or its numbers are too large or no numbers.
        """
        self.counter += 1
        names = [f"v{self.counter}{'abcde'[i]}" if results > 1 else f"v{self.counter}"
                 for i in range(results)]  # fmt: skip
        step = Step(operator, text, arguments, tuple(names))
        before = [{**world} for world in self.worlds]
        try:
            code = compile(step.source(), "<step>", "exec")
            with torch.no_grad():
                for world in self.worlds:
                    exec(code, world)
                    self.examine(world, (*names, *arguments))
        except Exception as error:  # whatever torch says: the step is not a legal one
            self.worlds = before
            self.rejected += 1
            raise Nothing from error
        self.steps.append(step)
        self.names += names
        return names

    def examine(self, world: dict[str, Any], names: Sequence[str]) -> None:
        """Raise where a value is too large, no number, or of too many elements."""
        for name in names:
            value = world.get(name)
            if not isinstance(value, Tensor):
                continue
            if value.numel() > MOST_ELEMENTS:
                raise ValueError("too large")
            if value.is_floating_point() and value.numel():
                largest = float(value.detach().abs().max())
                if not math.isfinite(largest) or largest > LARGEST:
                    raise ValueError("out of range")
