"""`bench compile`: seconds of our rewriting and of Inductor's matcher, same rules, same graphs.

Both get the same functions as rules and the same Qwen3-32B-shaped graph, and both see a small
graph first, so that neither pays for its patterns. Inductor's matcher makes one pass for each rule,
because a pass does not look again at what it has made.
"""

from __future__ import annotations

import argparse
import copy
import functools
import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import fx

# The subject of the comparison; nothing but this benchmark uses it.
from torch._inductor.pattern_matcher import (  # noqa: TID251
    PatternMatcherPass,
    fwd_only,
    register_replacement,
)

from ascend_passes.commands.arguments import add_json
from ascend_passes.commands.bench_rules import EPSILON, PAIRS, decoder, rules
from ascend_passes.commands.output import console, print_json, progress
from ascend_passes.graph import Context
from ascend_passes.normalize import normalize
from ascend_passes.rewrite import rewrite

HELP = "time our rewriting and Inductor's pattern matcher on the same graphs"
LAYERS = (16, 32, 64)
FUSED = "npu::npu_add_rms_norm_quant"


@dataclass(frozen=True)
class Row:
    """One graph through both."""

    layers: int
    nodes: int
    ours: float
    """Seconds of normalize and rewrite, best of the repeats."""
    inductor: float
    """Seconds of all its passes, best of the repeats."""
    ours_fused: int
    """`npu_add_rms_norm_quant` calls afterwards."""
    inductor_fused: int

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.inductor / self.ours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench compile`."""
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS, help="(default: 16 32 64)")
    parser.add_argument("--repeats", type=int, default=3, help="best of these (default: 3)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where both made the same fusions, 1 where they did not and times cannot be compared."""
    with progress("bench compile") as stage:
        rows = list(measure(arguments.layers, arguments.repeats, stage))
    if arguments.json:
        print_json([{**asdict(row), "ratio": row.ratio} for row in rows])
    else:
        print_rows(rows)
    return 0 if all(row.ours_fused == row.inductor_fused > 0 for row in rows) else 1


def measure(
    layers: list[int], repeats: int, stage: Callable[[str, int, int], None]
) -> Iterator[Row]:
    """Time both for each number of layers."""
    ours, theirs = our_passes(), inductor_passes()
    warm = decoder(2)
    ours(copy.deepcopy(warm).graph)
    theirs(copy.deepcopy(warm).graph)
    for done, count in enumerate(layers):
        stage(f"{count} layers", done, len(layers))
        graph_module = decoder(count)
        fast, ours_fused = best(ours, graph_module, repeats)
        slow, inductor_fused = best(theirs, graph_module, repeats)
        nodes = len(graph_module.graph.nodes)
        yield Row(count, nodes, fast, slow, ours_fused, inductor_fused)


def best(
    passes: Callable[[fx.Graph], None], graph_module: fx.GraphModule, repeats: int
) -> tuple[float, int]:
    """The least seconds of some runs on fresh copies, and the fusions that were made."""
    times, fused = [], 0
    for _ in range(repeats):
        graph = copy.deepcopy(graph_module).graph
        started = time.perf_counter()
        passes(graph)
        times.append(time.perf_counter() - started)
        fused = sum(called(node) == FUSED for node in graph.nodes)
    return min(times), fused


def called(node: fx.Node) -> str:
    """The operator that a node calls, however the graph spells it."""
    target = node.target
    return target._schema.name if isinstance(target, torch._ops.OpOverload) else ""


def our_passes() -> Callable[[fx.Graph], None]:
    """Normalize and rewrite with the benchmark's rules."""
    chosen = tuple(rules())

    def passes(graph: fx.Graph) -> None:
        normalize(graph)
        rewrite(graph, chosen, Context())

    return passes


def inductor_passes() -> Callable[[fx.Graph], None]:
    """Inductor's matcher, one pass for each rule, without decompositions."""
    stages = []
    for pattern, replacement in PAIRS:
        stage = PatternMatcherPass()
        with torch.no_grad():
            register_replacement(
                with_epsilon(pattern),
                with_epsilon(replacement),
                example_inputs(pattern),
                fwd_only,
                stage,
                get_decomp_fn=dict,
            )
        stages.append(stage)

    def passes(graph: fx.Graph) -> None:
        for stage in stages:
            stage.apply(graph)

    return passes


def with_epsilon(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its scalar filled in, and a signature of tensors alone for Inductor."""
    signature = inspect.signature(function)
    tensors = [name for name in signature.parameters if name != "eps"]
    filled = function
    if "eps" in signature.parameters:
        filled = functools.partial(function, eps=EPSILON)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return filled(*arguments)

    del call.__wrapped__
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in tensors]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def example_inputs(pattern: Callable[..., Any]) -> list[torch.Tensor]:
    """Small tensors for Inductor's trace of a pattern."""
    shapes = {"gamma": (64,), "scale": (64,), "gate_up": (4, 128)}
    names = [name for name in inspect.signature(pattern).parameters if name != "eps"]
    return [torch.ones(shapes.get(n, (4, 64)), dtype=torch.bfloat16) for n in names]


def print_rows(rows: list[Row]) -> None:
    """The table, and how our time grows."""
    table = Table(box=None)
    for title in ("layers", "nodes", "ours s", "Inductor s", "ratio", "fused", "Inductor fused"):
        table.add_column(title, justify="right")
    for row in rows:
        numbers = (f"{row.ours:.3f}", f"{row.inductor:.3f}", f"{row.ratio:.1f}x")
        counts = (str(row.ours_fused), str(row.inductor_fused))
        table.add_row(str(row.layers), str(row.nodes), *numbers, *counts)
    out = console()
    out.print(table)
    for small, large in itertools.pairwise(rows):
        growth = f"{large.ours / small.ours:.2f} times the time"
        out.print(f"{large.layers} layers take {growth} of {small.layers}")
