"""A case: what is compiled, what is done with it, and how to see it alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.soundness.observe import Record

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]
"""`torch.compile` with a backend, or what leaves a function as it is."""


@dataclass(frozen=True)
class Scenario:
    """What one case does, under any compiler."""

    run: Callable[[Compile, Record], None]
    """Compiles, calls, and records what it sees."""
    source: Callable[[], str]
    """The same as a runnable file without this package."""
    dynamic: bool | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `torch._dynamo.config`."""
    smaller: Callable[[], list[Scenario]] = list
    """The same with less in it, for the search for a minimal one."""
    wide: Callable[[], Scenario] | None = None
    """The same on float64 inputs, where there is such a form: exact beside narrow dtypes."""


class SkipError(Exception):
    """There is nothing to run; the text says why."""


@dataclass(frozen=True)
class Case:
    """One row of a sweep."""

    sweep: str
    name: str
    """Unique in the sweep; its first word names the operator, module or function."""
    build: Callable[[int], Scenario]
    """Seed to scenario; the same seed gives the same."""

    def __str__(self) -> str:
        return f"{self.sweep}/{self.name}"


def generator(seed: int, name: str) -> random.Random:
    """A source of numbers that depends on the seed and on a name, and on nothing else."""
    return random.Random(int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:12], 16))
