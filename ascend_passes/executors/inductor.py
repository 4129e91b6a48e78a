"""Runs a rewritten graph through Inductor, which fuses what no operator of ours covers.

An NPU operator that has a kernel here stays one call. Every other one is its reference, inlined, so
that Inductor fuses it with what stands around it. Roundings between operators stay where eager has
them.

Inductor may specialize a graph with symbolic sizes for those it is compiled with. What it assumes
is asked at each call, and a call that it does not hold for is compiled for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.executors.references import with_references
from ascend_passes.ir import trace
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.trace_inductor import compile_with_inductor

Place = tuple[int, int | None]
"""An input, and its dim unless the input is a number itself."""
MOST_COMPILED = 16
"""Specializations of one graph; calls that none of them fits run as the graph stands."""


@dataclass(frozen=True)
class Compiled:
    """What Inductor made, and the sizes it is for."""

    holds: Callable[[Sequence[int]], bool]
    run: Callable[..., Any]


class SizedGraph:
    """Callable with a graph's flat inputs; compiles anew where an assumption does not hold."""

    def __init__(self, gm: fx.GraphModule, values: Sequence[Any], device: str) -> None:
        """
        Args:
            gm: the rewritten graph; not changed.
            values: one value for each placeholder, fake or real.
            device: type of the device that runs the graph.
        """
        self.plain = gm.forward
        self.gm = with_references(gm, device)
        self.places = tuple(symbolic_places(values))
        self.compiled: list[Compiled] = []
        self.add(values)

    def __call__(self, *inputs: Any) -> Any:
        """Run what is compiled for these sizes."""
        fitting = compiled_for(inputs, self.places, self.compiled)
        if fitting is not None:
            return fitting.run(*inputs)
        if len(self.compiled) == MOST_COMPILED:
            return self.plain(*inputs)
        with trace.outside_compilation():
            made = self.add(inputs)
        return made.run(*inputs)

    def add(self, values: Sequence[Any]) -> Compiled:
        """Compile for the sizes of `values`."""
        gm = fx.GraphModule(self.gm, copied(self.gm.graph))  # the compiler takes it over
        run, holds = compile_with_inductor(gm, values, self.places, {})
        made = Compiled(holds, run)
        self.compiled.append(made)
        return made


def compiled_for(
    inputs: Sequence[Any], places: Sequence[Place], compiled: Sequence[Compiled]
) -> Compiled | None:
    """What is compiled for the sizes of a call; None where nothing is."""
    sizes = [size_at(inputs, place) for place in places]
    return next((one for one in compiled if one.holds(sizes)), None)


def symbolic_places(values: Sequence[Any]) -> list[Place]:
    """Where the inputs have sizes, or are numbers, that other calls may have otherwise."""
    found: list[Place] = []
    for index, value in enumerate(values):
        if isinstance(value, torch.SymInt):
            found.append((index, None))
        shape = value.shape if isinstance(value, Tensor) else ()
        found += [(index, dim) for dim, n in enumerate(shape) if isinstance(n, torch.SymInt)]
    return found


def size_at(inputs: Sequence[Any], place: Place) -> int:
    """The number at a place."""
    index, dim = place
    return int(inputs[index] if dim is None else inputs[index].shape[dim])
