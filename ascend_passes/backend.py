"""`torch.compile(model, backend="ascend_dense")`, and the passes on a graph that somebody else
traced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ascend_passes.agreement.exchange import failing_together
from ascend_passes.capture.watch import host_reads
from ascend_passes.compile.compiled_graph import CompiledGraph
from ascend_passes.compile.flat_inputs import FlatInputs
from ascend_passes.compile.option_values import checked_options
from ascend_passes.compile.saved import keep_saved_apart
from ascend_passes.compile.variant import Keep, Later, device_type, optimize_module
from ascend_passes.ir import trace
from ascend_passes.ir.graph import Context
from ascend_passes.ir.graph_ends import example_results
from ascend_passes.meaning.recognize import FAMILIES
from ascend_passes.meaning.widths import settle_widths
from ascend_passes.options.plans import plans
from ascend_passes.options.value import Options
from ascend_passes.report.value import Report

_lock = threading.Lock()
_reports: list[tuple[Report, Later]] = []
MOST_REPORTS = 256
"""Reports that are remembered; older ones are forgotten."""
MOST_TEXTS = 16
"""Reports that keep the text of their graphs: 290 kB at 16 layers."""


def ascend_dense(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """The Dynamo backend.

    Args:
        gm: Dynamo's graph.
        example_inputs: its inputs; parameters and buffers are real.
        options: see `docs/options.md`.
        mode: not used by this backend; what modes switch elsewhere are options here.

    Raises:
        OptionError: an option that does not exist or cannot have its value.
        ExpectationError: fewer fusions than `expect` asks for.
    """
    with failing_together(gm.graph):
        chosen = checked_options(options)
        if mode is not None:
            raise ValueError(
                f"ascend_dense has no modes, got {mode!r}; use options, see docs/options.md"
            )
        return compile_graph(gm, example_inputs, chosen, keep)


def compile_graph(
    gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options, keep: Keep
) -> Callable[..., Any]:
    """Compile a Dynamo graph; `keep` receives the report of each variant when it is made."""

    # AOTAutograd keeps its compilers; what these hold must not keep the weights of today alive.
    given = list(example_inputs)

    def inference(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        return compiled(graph_module, inputs, training=False)

    def forward(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        keep_saved_apart(graph_module.graph)
        return compiled(graph_module, inputs, training=True)

    def backward(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        return CompiledGraph(graph_module, (), options, keep, training=True)

    def compiled(
        graph_module: fx.GraphModule, inputs: Sequence[Any], training: bool
    ) -> Callable[..., Any]:
        settle_widths(graph_module.graph, FAMILIES)
        static, flat = trace.static_positions(), FlatInputs.of(given, inputs)
        return CompiledGraph(
            graph_module,
            flat.values,
            options,
            keep,
            state=() if training else flat.state(gm, given, static),
            static=static,
            host_reads=tuple(host_reads(gm, device_type(graph_module.graph))),
            training=training,
        )

    try:
        return trace.compile_inference(gm, given, inference, forward=forward, backward=backward)
    finally:
        given.clear()


def keep_quietly(report: Report, later: Later = Report) -> None:
    """Remember a report, and where to ask what the compiled graph's runs add to it."""
    with _lock:
        _reports.append((report, later))
        del _reports[:-MOST_REPORTS]
        if len(_reports) > MOST_TEXTS:
            old, runs = _reports[-MOST_TEXTS - 1]
            _reports[-MOST_TEXTS - 1] = replace(old, graph_before="", graph_after=""), runs


def keep(report: Report, options: Options, later: Later = Report) -> None:
    """Remember a report, and print it where the user asked for that."""
    keep_quietly(report, later)
    if options.explain:
        print(report)


def optimize(
    gm: fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any] | None = None
) -> Report:
    """Run the passes on a graph that somebody else traced, in place.

    Args:
        gm: an inference graph of functional aten, with fake values in `meta["val"]`.
        example_inputs: one value for each placeholder. What parameters hold is not used: whoever
            runs the graph would have to see that it stays so.
        options: see `docs/options.md`.

    Raises:
        OptionError, ExpectationError: as for `ascend_dense`.
    """
    chosen = checked_options(options)
    context = Context(chosen, plans(chosen)[0], device=device_type(gm.graph))
    with trace.outside_compilation():  # a compiler of AOTAutograd's calls this in its fake mode
        report = optimize_module(gm, context)
    keep(report, chosen)
    return report


def explain(
    model: Callable[..., Any], *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any
) -> Report:
    """Compile a model for these arguments and say what happened; nothing of it is run.

    Raises:
        OptionError, ExpectationError: as for `ascend_dense`.
    """
    chosen = checked_options(options)
    found: list[Report] = []

    def compiler(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        settle_widths(gm.graph, FAMILIES)
        shapes = example_results(gm)
        flat = FlatInputs.of(example, inputs)
        state = trace.static_positions() if flat.owners else ()
        compiled = CompiledGraph(
            gm, flat.values, chosen, lambda report, *_: found.append(report), state=state
        )
        if not compiled.variants:
            with trace.outside_compilation():  # numbers are read, which fake modes may refuse
                compiled.prepare(flat.values)
        return lambda *_: [
            torch.zeros(shape, dtype=dtype, device=device) if dtype else shape
            for shape, dtype, device in shapes
        ]

    example: list[Any] = []

    def backend(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        example[:] = example_inputs
        try:
            return trace.compile_inference(gm, example_inputs, compiler)
        finally:
            example.clear()

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=backend)(*args, **kwargs)
    return sum(found, Report())


def reports() -> list[Report]:
    """What this process has compiled so far, the oldest first, with what capture did since.

    The last 256 compilations; the last 16 of them have the text of their graphs.
    """
    with _lock:
        return [report + later() for report, later in _reports]


def reset() -> None:
    """Forget the reports."""
    with _lock:
        _reports.clear()
