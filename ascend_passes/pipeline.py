"""The stages in their order, over one graph; a stage that fails is left out and said."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from torch import fx

from ascend_passes.errors import ExpectationError as ExpectationError
from ascend_passes.execute import ExecutorError
from ascend_passes.graph import Context
from ascend_passes.mailbox import AgreementError
from ascend_passes.normalize import normalize
from ascend_passes.options import OptionError, switched_on
from ascend_passes.passes.deduplicate import deduplicate
from ascend_passes.passes.eliminate_zeros import eliminate_zeros
from ascend_passes.passes.grouped_attention import grouped_attention
from ascend_passes.passes.hoist_rope import hoist_rope, share_tables
from ascend_passes.passes.matmul_collective import matmul_collective
from ascend_passes.passes.merge_equal import merge_equal
from ascend_passes.passes.prefetch import prefetch
from ascend_passes.passes.quantized_decomposed import quantized_decomposed
from ascend_passes.passes.reinplace import reinplace
from ascend_passes.passes.sequence_parallel import sequence_parallel
from ascend_passes.passes.unrounded_gain import unrounded_gain
from ascend_passes.passes.vllm_operators import vllm_operators
from ascend_passes.registry import rules
from ascend_passes.rehearsal import DepartureError
from ascend_passes.report import Report
from ascend_passes.rewrite import Accept, rewrite
from ascend_passes.rule import Rule, RuleError
from ascend_passes.sharing import keep_results_apart
from ascend_passes.verify.validate import Baseline, notes_of, refuse_difference

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage:
    """One step of the path of a graph."""

    name: str
    run: Callable[[fx.Graph, Context], Report]


def recognize(graph: fx.Graph, context: Context) -> Report:
    """Bring every spelling to its NPU operator."""
    chosen = [rule for rule in rules(context.options) if recognizes(rule)]
    return rewrite(graph, chosen, context, acceptance(context))


def fuse(graph: fx.Graph, context: Context) -> Report:
    """Join operators; the recognize rules take part, since a fused graph can show new spellings."""
    return rewrite(graph, rules(context.options), context, acceptance(context))


def acceptance(context: Context) -> Accept | None:
    """What has to agree with a replacement: nothing, or a comparison under `validate`."""
    if not context.options.validate:
        return None
    return lambda found, emission: refuse_difference(found, emission, context)


def recognizes(rule: Rule) -> bool:
    """Whether a rule lies in the folder of the recognize rules."""
    return Path(rule.source).parent.name == "recognize"


STAGES = (
    Stage("normalize", lambda graph, context: normalize(graph, context.options.strict)),
    Stage("share_tables", share_tables),
    Stage("vllm_operators", vllm_operators),
    Stage("quantized_decomposed", quantized_decomposed),
    Stage("hoist_rope", hoist_rope),
    Stage("merge_equal", merge_equal),
    Stage("deduplicate", deduplicate),
    Stage("recognize", recognize),
    Stage("merge_equal", merge_equal),
    Stage("deduplicate", deduplicate),
    Stage("sequence_parallel", sequence_parallel),
    Stage("fuse", fuse),
    Stage("unrounded_gain", unrounded_gain),
    Stage("matmul_collective", matmul_collective),
    Stage("grouped_attention", grouped_attention),
    Stage("eliminate_zeros", eliminate_zeros),
    Stage("prefetch", prefetch),
    Stage("reinplace", reinplace),
)
PASSED_ON = (AgreementError, DepartureError, ExecutorError, OptionError, RuleError)
"""Errors that are no fault of a pass."""
INTERMEDIATE = ("recognize",)
"""Stages whose misses a later stage tries again, so that only the later ones count."""


def run_stages(gm: fx.GraphModule, context: Context) -> Report:
    """Run every stage that is on, in place.

    A stage that raises is left out: the graph starts again from its original without it, and the
    report says so.

    Raises:
        OptionError: switches that cannot be read.
        RuleError: a rule file of the user's that does not load.
        AgreementError: ranks of a group would run different graphs.
        Exception: what a stage raised, under `strict`.
    """
    original = copied(gm.graph)
    skipped: dict[str, str] = {}
    baseline = Baseline.of(gm, context) if context.options.validate else None
    while True:
        report, failed = attempt(gm, context, skipped, baseline)
        if failed is None:
            break
        name, error = failed
        if context.options.strict or isinstance(error, PASSED_ON):
            raise error
        skipped[name] = left_out(name, error)
        gm.graph = copied(original)
    keep_results_apart(gm.graph, original)
    gm.graph.lint()
    gm.recompile()
    return report + Report(errors=tuple(skipped.values()), notes=notes_of(baseline))


def attempt(
    gm: fx.GraphModule,
    context: Context,
    skipped: Mapping[str, str],
    baseline: Baseline | str | None,
) -> tuple[Report, tuple[str, Exception] | None]:
    """Run the stages once, each compared with `baseline` where there is one; the report, or the
    stage that failed and its error."""
    report = Report()
    for stage in STAGES:
        if stage.name in skipped or not switched_on(stage.name, context.options.passes):
            continue
        start = time.perf_counter()
        try:
            found = stage.run(gm.graph, context)
            if isinstance(baseline, Baseline):
                baseline.require_same(gm)
        except Exception as error:  # a failing pass never breaks the user's model
            return report, (stage.name, error)
        if stage.name in INTERMEDIATE:
            found = Report(fired=found.fired, errors=found.errors)
        found = replace(found, errors=tuple(e for e in found.errors if e not in report.errors))
        report = report + found + Report(seconds={stage.name: time.perf_counter() - start})
    return report, None


def guarded(
    name: str, gm: fx.GraphModule, context: Context, step: Callable[[], Result]
) -> tuple[Result | None, Report]:
    """What a step beside the stages gives; where it raises, None, and the graph is as it was.

    Raises:
        Exception: as for `run_stages`.
    """
    original = copied(gm.graph)
    try:
        return step(), Report()
    except Exception as error:  # a failing pass never breaks the user's model
        if context.options.strict or isinstance(error, PASSED_ON):
            raise
        gm.graph = original
        gm.recompile()
        return None, Report(errors=(left_out(name, error),))


def left_out(name: str, error: Exception) -> str:
    """The line of a report for a step that failed."""
    return f"{name} failed and was left out: {type(error).__name__}: {error}"


def copied(graph: fx.Graph) -> fx.Graph:
    """The same graph with nodes of its own; values and origins are shared."""
    copy = fx.Graph(graph.owning_module)
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        nodes[node] = copy.node_copy(node, nodes.__getitem__)
    copy._codegen = graph._codegen
    return copy


def check_expectations(report: Report, context: Context) -> None:
    """Raise ExpectationError where counts are below `expect`, or `strict` and a match was
    refused."""
    short = [
        f"{name} fired {report.fired.get(name, 0)} times, expected {count}"
        for name, count in context.options.expect.items()
        if report.fired.get(name, 0) < count
    ]
    if context.options.strict:
        short += [
            f"{miss.rule} at {miss.place}: {miss.reason}" for miss in report.misses if miss.complete
        ]
    if short:
        raise ExpectationError("; ".join(short) + f"\n{report}")
