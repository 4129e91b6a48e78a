"""The graph before and after the passes, both computed in float64: the same formula or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx

import ascend_passes
from ascend_passes import backend
from ascend_passes.compile.compiled_graph import CompiledGraph
from tests.fuzz.modes import WIDE, Exact
from tests.fuzz.program import Program

BOUND = 2**-24
"""Of the largest value of a tensor. float64 itself is at 1e-15 a step, but a number may stand for
its float32: torch decomposes a norm of half precision with such an epsilon, an operator takes the
decimal one, and both are one number to what computes in float32."""
IGNORED = ("cudagraph_mode", "executor", "capture_warm_up", "capture_sizes", "strict", "off")
"""Options that say how a graph is run, not which graph it is."""


class Traced(CompiledGraph):
    """A compiled graph that keeps what it was before the passes, and the inputs of its first call.

    So a program is traced once for both comparisons.
    """

    def __init__(self, gm: fx.GraphModule, *args: Any, **more: Any) -> None:
        self.before, self.given = twin(gm), None
        super().__init__(gm, *args, **more)

    def __call__(self, *inputs: Any) -> Any:
        if self.given is None:
            self.given = [laid_as(one, one) if isinstance(one, Tensor) else one for one in inputs]
        return super().__call__(*inputs)


@contextlib.contextmanager
def traced() -> Iterator[list[Traced]]:
    """The graphs that are compiled inside."""
    found: list[Traced] = []

    def kept(*args: Any, **more: Any) -> Traced:
        found.append(Traced(*args, **more))
        return found[-1]

    with mock.patch.object(backend, "CompiledGraph", kept):
        yield found


def formula_differences(program: Program, graphs: Sequence[Traced]) -> list[str]:
    """What the rewritten graphs of a program compute otherwise."""
    options = {k: v for k, v in program.options if k not in IGNORED}
    found: list[str] = []
    for graph in graphs:
        if graph.given is None:
            continue
        after = twin(graph.before)
        report = ascend_passes.optimize(after, graph.given, options)
        found += [f"pass failed: {error}" for error in report.errors]
        found += both(graph.before, after, graph.given, program.seed)
    return found


def twin(gm: fx.GraphModule) -> fx.GraphModule:
    """The same graph with nodes of its own; a deep copy would have fake values of another mode."""
    graph, nodes = fx.Graph(), {}
    for node in gm.graph.nodes:
        nodes[node] = graph.node_copy(node, nodes.__getitem__)
    return fx.GraphModule(gm, graph)


def both(before: fx.GraphModule, after: fx.GraphModule, inputs: Any, seed: int) -> list[str]:
    """Where two graphs differ on the same inputs, which both may write."""
    generator = torch.Generator().manual_seed(seed)
    given = [full_digits(value, generator) for value in inputs]
    sides = []
    for gm in (before, after):
        mine = [laid_as(value, value) if isinstance(value, Tensor) else value for value in given]
        with torch.no_grad(), Exact():
            results = gm(*mine)
        sides.append([*results, *mine])
    found = []
    for index, (one, other) in enumerate(zip(*sides, strict=True)):
        reason = apart(one, other)
        if reason:
            found.append(
                f"float64, value {index} of {len(results)} results and the inputs: {reason}"
            )
    return found


def full_digits(value: Any, generator: torch.Generator) -> Any:
    """A tensor in float64 with digits that no narrow dtype has, so that nothing ties."""
    if not isinstance(value, Tensor) or value.dtype not in WIDE:
        return value
    wide = value.detach().to(WIDE[value.dtype])
    noise = torch.rand(wide.shape, generator=generator, dtype=torch.float64)
    return laid_as(wide * (1 + 1e-3 * noise), value)


def laid_as(value: Tensor, model: Tensor) -> Tensor:
    """A copy in the layout of another tensor of its shape."""
    single = tuple(
        1 if stride == 0 else size for size, stride in zip(model.shape, model.stride(), strict=True)
    )
    memory = torch.empty_strided(single, model.stride(), dtype=value.dtype)
    memory.copy_(value[tuple(slice(0, size) for size in single)])
    return memory.expand(model.shape)


def apart(one: Any, other: Any) -> str:
    """How two results differ."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return "" if one == other else f"{other} for {one}"
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{other.dtype} {tuple(other.shape)} for {one.dtype} {tuple(one.shape)}"
    if one.numel() == 0 or torch.equal(one, other):
        return ""
    if not one.is_floating_point():
        return f"{int((one != other).sum())} of {one.numel()} integers differ"
    if not torch.equal(one.isfinite(), other.isfinite()):
        return f"{int((one.isfinite() != other.isfinite()).sum())} elements finite in one only"
    gap = float(torch.nan_to_num(one - other, nan=0.0, posinf=0.0, neginf=0.0).abs().max())
    largest = float(torch.nan_to_num(one, nan=0.0, posinf=0.0, neginf=0.0).abs().max())
    return f"{gap / largest:.3g} of the largest value" if gap > BOUND * largest else ""
