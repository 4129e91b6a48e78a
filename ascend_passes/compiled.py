"""One Dynamo graph at run time: its compiled variants, and which of them a call takes.

A variant belongs to a plan (a range of token counts) and to the values of float inputs, which a
compile with `dynamic=True` passes as tensors and the fused operators take as numbers.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import trace
from ascend_passes.agreement import require_agreement
from ascend_passes.capture import Fault, Runner, prepare, wrap
from ascend_passes.cost import matmul_rows
from ascend_passes.dump import dumped
from ascend_passes.exchange import failing_together, shared_groups
from ascend_passes.execute import execute
from ascend_passes.graph import Context, is_call, value
from ascend_passes.options import Options
from ascend_passes.passes.constants import (
    FoldedValues,
    facts_hold,
    facts_of,
    fold_constants,
    merge_equal,
)
from ascend_passes.passes.hoist_rope import share_tables
from ascend_passes.passes.quantized_decomposed import find_zero_points
from ascend_passes.pipeline import check_expectations, copied, run_stages
from ascend_passes.plan import Plan, divided, pick, plans
from ascend_passes.report import Report
from ascend_passes.scalars import scalar_positions, specialize_scalars

Later = Callable[[], Report]
"""What the runs of a compiled graph add to its report: captures, and what runs uncaptured."""
Keep = Callable[[Report, Options, Later], None]


@dataclass(frozen=True)
class Variant:
    """A compiled graph for one plan."""

    run: Callable[..., Any]
    folded: FoldedValues | None
    holds: Callable[[Sequence[Any]], bool]
    """Whether what was assumed of the parameters' content is still true."""


def optimize_module(gm: fx.GraphModule, context: Context, before: str = "") -> Report:
    """Run the passes on a graph, in place, and check what the options expect of them.

    Args:
        gm: the graph.
        context: what the passes know beside it.
        before: its code where something was done to it already; else the code that it has now.
    """
    before = before or gm.code
    if context.options.off:
        return Report(
            notes=("switched off by ASCEND_PASSES_OFF",), graph_before=before, graph_after=before
        )
    report = run_stages(gm, context)
    report = replace(report, graph_before=before, graph_after=gm.code)
    check_expectations(report, context)
    return report


def optimize_with_constants(gm: fx.GraphModule, context: Context) -> Report:
    """`optimize_module` after the parameters that are equal by value became one."""
    if not context.constants or context.options.off:
        return optimize_module(gm, context)
    before = gm.code
    alike = {**merge_equal(gm.graph, context), **share_tables(gm.graph, context)}
    merged = Report(fired={"merge_equal": len(alike)})
    find_zero_points(gm.graph, context)
    return merged + optimize_module(gm, context, before)


class CompiledGraph:
    """Callable with the flat inputs of an inference graph; compiles a variant when a call first
    needs it."""

    def __init__(
        self,
        gm: fx.GraphModule,
        example_inputs: Sequence[Any],
        options: Options,
        constants: Mapping[str, Tensor],
        static: Sequence[int],
        keep: Keep,
        host_reads: Sequence[Fault] = (),
    ) -> None:
        self.gm, self.options = gm, options
        self.constants, self.static, self.keep = constants, static, keep
        self.device, self.host_reads = device_type(gm.graph), host_reads
        self.plans = plans(options)
        self.tokens = token_counter(gm.graph)
        aligned = len(example_inputs) == len(gm.graph.find_nodes(op="placeholder"))
        self.scalars = scalar_positions(gm.graph, static) if aligned else ()
        self.variants: dict[Any, Variant] = {}
        self.lock = threading.Lock()
        if len(self.plans) == 1 and not self.scalars and not options.flashcomm:
            self.prepare(example_inputs)

    def __call__(self, *inputs: Any) -> Any:
        """Run the variant for these inputs."""
        variant = self.prepare(inputs)
        values = variant.folded(inputs) if variant.folded is not None else ()
        return variant.run(*inputs, *values)

    def prepare(self, inputs: Sequence[Any]) -> Variant:
        """The variant for a call with these inputs, compiled if it is the first of its kind."""
        numbers = tuple(float(inputs[index]) for index in self.scalars)
        plan = pick(self.plans, self.tokens(inputs)) if len(self.plans) > 1 else self.plans[0]
        key = (plan, numbers)
        variant = self.variants.get(key)
        if variant is not None and variant.holds(inputs):
            return variant
        with self.lock:
            if variant is None and key in self.variants:
                return self.variants[key]
            # A parameter changed after it was found equal to another: compile without that
            # knowledge.
            with trace.outside_compilation(), failing_together(self.gm.graph):
                made, gain_from = self.compile(plan, numbers, trust=variant is None)
            self.variants[key] = made
            if gain_from is None:
                return made
            # Below `gain_from` the variant stays; from there on another is worth its compilation.
            self.plans = divided(self.plans, plan, gain_from)
            self.variants[replace(plan, high=gain_from - 1), numbers] = made
        return self.prepare(inputs)

    def compile(
        self, plan: Plan, numbers: tuple[float, ...], trust: bool
    ) -> tuple[Variant, int | None]:
        """A variant for a plan, and the tokens from which another is estimated to be faster.

        `trust` says whether equal content of parameters may be used.
        """
        gm = fx.GraphModule(self.gm, copied(self.gm.graph))
        specialize_scalars(gm.graph, dict(zip(self.scalars, numbers, strict=True)))
        context = Context(self.options, plan, self.constants, self.device)
        groups = shared_groups(gm.graph)
        require_agreement(gm.graph, context, groups, "the traced graph")
        report = optimize_with_constants(gm, context) if trust else optimize_module(gm, context)
        folded = None if self.options.off else fold_constants(gm, context)
        if folded is not None:
            report = report + folded.report
            report = replace(report, graph_after=gm.code)
        if prepare(gm, self.options, self.device):
            report = replace(report, graph_after=gm.code)
        report = dumped(report, plan, self.options)
        count = len(self.gm.graph.find_nodes(op="placeholder"))
        extra = range(count, count + (len(folded.outputs) if folded else 0))
        values = [node.meta.get("val") for node in gm.graph.find_nodes(op="placeholder")]
        static = (*self.static, *extra)
        function = execute(gm, values, self.options, self.device, static)
        function = wrap(
            function,
            gm,
            self.options,
            device=self.device,
            static_positions=static,
            host_reads=self.host_reads,
        )
        later = function.log.report if isinstance(function, Runner) else Report
        self.keep(report, self.options, later)
        # Once all of it has been done here, so that no rank runs before another one fails.
        require_agreement(gm.graph, context, groups, "the rewritten graph")
        facts = facts_of(gm.graph)
        positions = {node.name: i for i, node in enumerate(gm.graph.find_nodes(op="placeholder"))}

        def holds(inputs: Sequence[Any]) -> bool:
            tensors = {name: inputs[positions[name]] for fact in facts for name in fact.names}
            return facts_hold(facts, tensors)

        variant = Variant(
            function,
            FoldedValues(folded) if folded is not None else None,
            holds if facts else lambda inputs: True,
        )
        return variant, next((d.gain_from for d in report.decisions if d.gain_from), None)


def device_type(graph: fx.Graph) -> str:
    """Type of the first device in a graph that is not the CPU; cpu where there is none."""
    for node in graph.nodes:
        fake = value(node)
        if isinstance(fake, Tensor) and fake.device.type not in ("cpu", "meta"):
            return str(fake.device.type)
    return "cpu"


def token_counter(graph: fx.Graph) -> Callable[[Sequence[Any]], int]:
    """A function from a call's inputs to its token count: the rows that the embedding looks up.

    A graph without an embedding, such as a later part of a pipeline, counts the rows of its first
    matmul; one without either those of its first input with a symbolic size.
    """
    for count in row_counts(graph):
        if isinstance(count, int):
            return functools.partial(fixed, count)
        with contextlib.suppress(KeyError):  # the rows are not read off an input
            return trace.size_of_inputs(count, graph)
    return functools.partial(fixed, 1)


def row_counts(graph: fx.Graph) -> Iterator[int | torch.SymInt]:
    """What may be a graph's token count, the most telling first."""
    lookups = [node for node in graph.nodes if is_call(node, torch.ops.aten.embedding.default)]
    if lookups:
        yield value(lookups[0].args[1]).numel()
    rows = matmul_rows(graph)
    if rows is not None:
        yield rows
    for node in graph.find_nodes(op="placeholder"):
        fake = value(node)
        sizes: Sequence[Any] = fake.shape if isinstance(fake, Tensor) else ()
        if any(isinstance(size, torch.SymInt) for size in sizes):
            yield sizes[0] if len(sizes) < 3 else sizes[0] * sizes[1]


def fixed(count: int, inputs: Sequence[Any]) -> int:
    """The token count of a graph that has one only."""
    return count
