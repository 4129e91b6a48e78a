"""A program is a value: what it is given, its steps, its results and how it is called.

It turns into plain torch source, and that into a callable.
"""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.fuzz import content

Size = int | str
"""A number, or the name of a size that each call chooses."""
DTYPES = ("bfloat16", "float16", "float32")
KINDS = ("DT", "WIDE", "int8", "int64", "int32", "bool")
"""Dtypes of what a program is given; DT is the activations' own and WIDE is float32."""


@dataclass(frozen=True)
class Given:
    """An input, a parameter or a buffer."""

    name: str
    role: str
    """input, kept (an input that lives through the calls, as a cache), parameter or buffer."""
    shape: tuple[Size, ...]
    recipe: str
    kind: str = "DT"
    layout: str = "dense"
    same: str = ""
    """Another one: a parameter is the same object, an input lies in the same memory."""
    equal: str = ""
    """Another one that has equal content until somebody writes one of the two."""

    @property
    def place(self) -> str:
        """How steps refer to it."""
        return f"self.{self.name}" if self.role in ("parameter", "buffer") else self.name


@dataclass(frozen=True)
class Step:
    """An operator of the vocabulary, applied to what was there before."""

    operator: str
    text: str
    """Python with {0}, {1}, … for the arguments and {r0}, {r1}, … for the results."""
    arguments: tuple[str, ...]
    results: tuple[str, ...]

    def source(self) -> str:
        """Its lines."""
        names = {f"r{index}": name for index, name in enumerate(self.results)}
        return self.text.format(*self.arguments, **names)


@dataclass(frozen=True)
class Call:
    """One call: fresh inputs of these sizes, after some parameters were written."""

    seed: int
    sizes: tuple[tuple[str, int], ...]
    rewrite: str = ""
    """A manner of `rewrite.MANNERS`; empty where nothing is written."""
    rewritten: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """Everything that a run depends on."""

    given: tuple[Given, ...]
    steps: tuple[Step, ...]
    results: tuple[str, ...]
    calls: tuple[Call, ...]
    dtype: str = "float32"
    options: tuple[tuple[str, Any], ...] = ()
    dynamic: bool | None = None
    write_results: bool = False
    poison: bool = False
    """Fill memory that nobody has written with NaN."""
    inference: bool = False
    """Call under `inference_mode`, not `no_grad`."""
    seed: int = field(default=0, compare=False)

    def inputs(self) -> tuple[Given, ...]:
        """What each call passes, in order."""
        return tuple(one for one in self.given if one.role in ("input", "kept"))

    def state(self) -> tuple[Given, ...]:
        """Parameters and buffers."""
        return tuple(one for one in self.given if one.role in ("parameter", "buffer"))


def creation(one: Given, index: int) -> str:
    """The line of `__init__` that makes a parameter or a buffer."""
    if one.same:
        return f"self.{one.name} = self.{one.same}"
    made = f'given("{one.equal or one.name}", {one.shape})'
    if one.role == "buffer":
        return f'self.register_buffer("{one.name}", {made})'
    return f"self.{one.name} = torch.nn.Parameter({made}, requires_grad=False)"


def source(program: Program) -> str:
    """The module as plain torch; `given`, `DT` and `WIDE` are names around it."""
    lines = ["class Model(torch.nn.Module):", "    def __init__(self):"]
    lines += ["        super().__init__()"]
    lines += [f"        {creation(one, i)}" for i, one in enumerate(program.state())]
    names = ", ".join(["self", *(one.name for one in program.inputs())])
    lines += ["", f"    def forward({names}):"]
    for step in program.steps:
        lines += [f"        {line}" for line in step.source().splitlines()]
    comma = "," if len(program.results) == 1 else ""
    lines += [f"        return ({', '.join(program.results)}{comma})"]
    return "\n".join(lines) + "\n"


def dtype_of(kind: str, narrow: torch.dtype, wide: torch.dtype) -> torch.dtype:
    """The torch dtype of a kind."""
    known = {"DT": narrow, "WIDE": wide}
    return known[kind] if kind in known else getattr(torch, kind)


def stored(program: Program, kind: str) -> torch.dtype:
    """The dtype that rounds the content of a kind, whatever dtype it is computed in."""
    return dtype_of(kind, getattr(torch, program.dtype), torch.float32)


def seed_of(program: Program, name: str, seed: int) -> int:
    """The seed of one content: it depends on the name, not on what else there is."""
    return (seed * 1_000_003 + sum((i + 1) * ord(c) for i, c in enumerate(name)) * 7919) % 2**31


def sized(shape: tuple[Size, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape in numbers."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in shape)


def values_of(
    program: Program,
    one: Given,
    seed: int,
    sizes: Mapping[str, int],
    narrow: torch.dtype,
    wide: torch.dtype,
) -> torch.Tensor:
    """The content of something given, in a world's dtypes."""
    return content.make(
        seed_of(program, one.equal or one.name, seed),
        one.recipe,
        sized(one.shape, sizes),
        stored(program, one.kind),
        dtype_of(one.kind, narrow, wide),
        one.layout,
    )


def load(program: Program, narrow: torch.dtype, wide: torch.dtype) -> torch.nn.Module:
    """The module in a world's dtypes."""
    text, known = source(program), {one.name: one for one in program.given}

    def given(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return values_of(program, known[name], program.seed, {}, narrow, wide)

    namespace: dict[str, Any] = {
        "torch": torch,
        "F": torch.nn.functional,
        "DT": narrow,
        "WIDE": wide,
        "given": given,
        "__name__": "program",
    }
    file = f"<program {abs(hash(text))}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    exec(compile(text, file, "exec"), namespace)
    return namespace["Model"]()
