"""`bench compile`: seconds of our rewriting and of Inductor's matcher, same rules, same graphs.

Both get the same functions as rules and the same Qwen3-32B-shaped graph, and both see a small
graph first, so that neither pays for its patterns. Inductor's matcher makes one pass for each rule,
because a pass does not look again at what it has made.

A third column is the whole pipeline, with all rules and passes, on the static W8A8 model with
merged projections. All times are CPU seconds, what an idle core takes: of this process, which has
seen a graph before, and of fresh ones, which have not.
"""

from __future__ import annotations

import argparse
import functools
import gc
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
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

from ascend_passes.cli.arguments import add_json, whole_number
from ascend_passes.cli.bench_cold import (
    MOST_COLD,
    MOST_IMPORT,
    THEIRS,
    Cold,
    cold_table,
    measure_cold,
)
from ascend_passes.cli.bench_rules import EPSILON, PAIRS, decoder, paired_rules
from ascend_passes.cli.output import console, print_json, progress
from ascend_passes.compile.variant import optimize_module
from ascend_passes.engine.normalize import normalize
from ascend_passes.engine.rewrite import rewrite
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.graph import Context

EXAMPLES = ("ascend-passes bench compile --layers 64 --repeats 1",)
LAYERS = (16, 32, 64)
MOST_LAYERS, MOST_REPEATS = 512, 1000
FUSED = "npu::npu_add_rms_norm_quant"
TOKENS = 16
LEAST_RATIO = 10.0
"""Times that ours must be faster than Inductor's matcher at 64 layers."""
MOST_GROWTH = 2.3
"""Times that 64 layers may take of 32; 2 is linear."""
MOST_SECONDS = 4.0
"""CPU seconds that the whole pipeline may take for 64 layers."""
Passes = Callable[[fx.GraphModule], None]


@dataclass(frozen=True)
class Row:
    """One graph through both."""

    layers: int
    nodes: int
    ours: float
    """CPU seconds of normalize and rewrite, best of the repeats."""
    inductor: float
    """CPU seconds of all its passes, best of the repeats."""
    ours_fused: int
    """`npu_add_rms_norm_quant` calls afterwards."""
    inductor_fused: int
    model_nodes: int
    """Nodes of the W8A8 model of as many layers."""
    pipeline: float
    """CPU seconds of all passes with all rules on that model, best of the repeats."""
    pipeline_fused: int

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.inductor / self.ours

    @property
    def alike(self) -> bool:
        """Whether all three found every fusion: each norm behind an add feeds a quantize."""
        return self.ours_fused == self.inductor_fused == self.pipeline_fused == 2 * self.layers - 1


@dataclass(frozen=True)
class Bar:
    """A bound on what was measured."""

    text: str
    found: float
    passed: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench compile`."""
    parser.add_argument(
        "--layers",
        type=whole_number(MOST_LAYERS),
        nargs="+",
        default=LAYERS,
        help="(default: 16 32 64)",
    )
    parser.add_argument(
        "--repeats", type=whole_number(MOST_REPEATS), default=3, help="best of these (default: 3)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where all made the same fusions and every bar that was measured holds, else 1."""
    with progress("bench compile") as stage:
        rows = list(measure_compile(arguments.layers, arguments.repeats, stage))
        cold = measure_cold(arguments.repeats, stage)
    judged = list(bars(rows, cold))
    if arguments.json:
        print_json(
            {
                "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
                "cold": {**asdict(cold), "over": cold.over, "import_over": cold.import_over},
                "bars": [asdict(bar) for bar in judged],
            }
        )
    else:
        print_rows(rows, cold, judged)
    return 0 if all(bar.passed for bar in judged) else 1


def bars(rows: Sequence[Row], cold: Cold) -> Iterator[Bar]:
    """What the rows say about each bound; speed, that of a start too, is judged where 64 layers are
    measured, growth from 32 to 64."""
    alike = sum(row.alike for row in rows)
    yield Bar(f"equal fusions in all {len(rows)} rows", alike, alike == len(rows))
    known = {row.layers: row for row in rows}
    small, large = known.get(32), known.get(64)
    if large is None:
        return
    text = f"first compilation of a process within {MOST_COLD:g} s of {THEIRS}'s"
    yield Bar(text, cold.over, cold.over <= MOST_COLD)
    text = f"import within {MOST_IMPORT:g} s of torch's"
    yield Bar(text, cold.import_over, cold.import_over <= MOST_IMPORT)
    ratio, seconds = large.ratio, large.pipeline
    yield Bar(f"at least {LEAST_RATIO:g} times faster", ratio, ratio >= LEAST_RATIO)
    yield Bar(f"all rules under {MOST_SECONDS:g} s", seconds, seconds < MOST_SECONDS)
    if small is None:
        return
    for name, growth in (
        ("same rules", large.ours / small.ours),
        ("all rules", large.pipeline / small.pipeline),
    ):
        text = f"{name}: 64 layers under {MOST_GROWTH:g} times the time of 32"
        yield Bar(text, growth, growth < MOST_GROWTH)


def measure_compile(
    layers: list[int], repeats: int, stage: Callable[[str, int, int], None]
) -> Iterator[Row]:
    """Time both for each number of layers, and the whole pipeline on as large a model."""
    from ascend_passes.models.merged import trace_merged  # needs the extra `models`

    ours, theirs = our_passes(), inductor_passes()
    warm = decoder(2)
    ours(fresh(warm))
    theirs(fresh(warm))
    whole_pipeline(trace_merged(1, TOKENS))
    for done, count in enumerate(layers):
        stage(f"{count} layers, same rules", 2 * done, 2 * len(layers))
        graph_module = decoder(count)
        fast, ours_fused = best(ours, graph_module, repeats)
        slow, inductor_fused = best(theirs, graph_module, repeats)
        stage(f"{count} layers, all rules", 2 * done + 1, 2 * len(layers))
        model = trace_merged(count, TOKENS)
        whole, whole_fused = best(whole_pipeline, model, repeats)
        yield Row(
            count,
            len(graph_module.graph.nodes),
            fast,
            slow,
            ours_fused,
            inductor_fused,
            len(model.graph.nodes),
            whole,
            whole_fused,
        )


def fresh(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy to rewrite."""
    return fx.GraphModule(graph_module, copied(graph_module.graph))


def best(passes: Passes, graph_module: fx.GraphModule, repeats: int) -> tuple[float, int]:
    """The least CPU seconds of some runs on fresh copies, and the fusions that were made."""
    times, fused = [], 0
    for _ in range(repeats):
        copy = fresh(graph_module)
        gc.collect()
        started = time.process_time()
        passes(copy)
        times.append(time.process_time() - started)
        fused = sum(called_operator(node) == FUSED for node in copy.graph.nodes)
    return min(times), fused


def whole_pipeline(graph_module: fx.GraphModule) -> None:
    """Everything that a compilation does with the graph: all stages, all rules, the report."""
    optimize_module(graph_module, Context())


def called_operator(node: fx.Node) -> str:
    """The operator that a node calls, however the graph spells it."""
    target = node.target
    return target._schema.name if isinstance(target, torch._ops.OpOverload) else ""


def our_passes() -> Passes:
    """Normalize and rewrite with the benchmark's rules."""
    chosen = tuple(paired_rules())

    def passes(graph_module: fx.GraphModule) -> None:
        normalize(graph_module.graph)
        rewrite(graph_module.graph, chosen, Context())

    return passes


def inductor_passes() -> Passes:
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

    def passes(graph_module: fx.GraphModule) -> None:
        for stage in stages:
            stage.apply(graph_module.graph)

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


def print_rows(rows: Sequence[Row], cold: Cold, judged: Sequence[Bar]) -> None:
    """The tables, and whether each bar holds."""
    table = Table(box=None, title="CPU seconds of a warm process", title_justify="left")
    titles = ("layers", "nodes", "ours", "Inductor", "ratio", "fused", "Inductor fused")
    for title in (*titles, "model nodes", "all rules", "all rules fused"):
        table.add_column(title, justify="right")
    for row in rows:
        numbers = (f"{row.ours:.3f}", f"{row.inductor:.3f}", f"{row.ratio:.1f}x")
        counts = (str(row.ours_fused), str(row.inductor_fused))
        model = (str(row.model_nodes), f"{row.pipeline:.3f}", str(row.pipeline_fused))
        table.add_row(str(row.layers), str(row.nodes), *numbers, *counts, *model)
    out = console()
    out.print(table)
    out.print(cold_table(cold))
    for bar in judged:
        out.print(f"{'passed' if bar.passed else 'FAILED'}: {bar.text}, found {bar.found:.3g}")
