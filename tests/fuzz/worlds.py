"""The same calls in several worlds: eager, compiled, in float64, and in float64 with noise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.modes import Exact, Noise
from tests.fuzz.observe import Observation, observe
from tests.fuzz.program import Call, Given, Program, load, values_of
from tests.fuzz.rewrite import WAYS

Wrap = Callable[[nn.Module], Callable[..., Any]]


@dataclass(frozen=True)
class World:
    """How a program is run."""

    narrow: torch.dtype
    wide: torch.dtype
    mode: Callable[[], AbstractContextManager[Any]]
    wrap: Wrap = lambda module: module


def eager(program: Program, wrap: Wrap = lambda module: module) -> World:
    """In the program's own dtypes; `wrap` compiles."""
    return World(getattr(torch, program.dtype), torch.float32, contextlib.nullcontext, wrap)


def exact() -> World:
    """In float64."""
    return World(torch.float64, torch.float64, Exact)


def noisy(program: Program, seed: int) -> World:
    """In float64, with noise as large as the program's dtype rounds."""
    unit = torch.finfo(getattr(torch, program.dtype)).eps
    return World(torch.float64, torch.float64, lambda: Noise(seed, unit))


@contextlib.contextmanager
def poisoned(wanted: bool) -> Iterator[None]:
    """Memory that nobody has written holds NaN."""
    if not wanted:
        yield
        return
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def run(program: Program, world: World) -> list[Observation]:
    """What is observed after each call, and after each result was written to."""
    module = load(program, world.narrow, world.wide)
    function = world.wrap(module)
    kept: dict[Any, Tensor] = {}
    found: list[Observation] = []
    with poisoned(program.poison):
        for call in program.calls:
            write_parameters(program, module, call, world)
            inputs = inputs_of(program, call, world, kept)
            grad = torch.inference_mode if program.inference else torch.no_grad
            with grad(), world.mode():
                results = function(*inputs.values())
            found.append(observe(results, inputs, module))
            if program.write_results:
                write(results)
                found.append(observe(results, inputs, module))
    return found


def write_parameters(program: Program, module: nn.Module, call: Call, world: World) -> None:
    """Write the parameters that a call wants written."""
    known = {one.name: one for one in program.given}
    for name in call.rewritten if call.rewrite else ():
        if name not in known:
            continue
        fresh = Given(name, "", known[name].shape, known[name].recipe, known[name].kind)
        new = values_of(program, fresh, call.seed, {}, world.narrow, world.wide)
        WAYS[call.rewrite](module, name, new)


def inputs_of(
    program: Program, call: Call, world: World, kept: dict[Any, Tensor]
) -> dict[str, Tensor]:
    """The inputs of a call; what lives through calls of equal sizes comes from `kept`."""
    sizes = dict(call.sizes)
    found: dict[str, Tensor] = {}
    for one in program.inputs():
        seed = program.seed if one.role == "kept" else call.seed
        made = values_of(program, one, seed, sizes, world.narrow, world.wide)
        found[one.name] = made
    for one in program.inputs():
        if one.same in found:
            first, second = found[one.same], found[one.name]
            joined = torch.cat([first, second])
            found[one.same], found[one.name] = joined[: len(first)], joined[len(first) :]
    for one in program.inputs():
        if one.role == "kept":
            found[one.name] = kept.setdefault((one.name, call.sizes), found[one.name])
    return found


def write(results: Any) -> None:
    """Fill each result with a number of its own, in order; what cannot be written stays."""
    for index, result in enumerate(results):
        if isinstance(result, Tensor):
            with contextlib.suppress(RuntimeError), torch.no_grad():
                result.fill_(index % 2 if result.dtype == torch.bool else index + 1)
