"""Runs the stages over one graph; a stage that fails is left out and said."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from torch import fx

from ascend_passes.compile.left import refusals
from ascend_passes.compile.stages import STAGES
from ascend_passes.distributed.mailbox import AgreementError
from ascend_passes.distributed.rehearsal import DepartureError
from ascend_passes.engine.rule import RuleError
from ascend_passes.executors.execute import ExecutorError
from ascend_passes.ir.blueprint import Blueprint
from ascend_passes.ir.graph import Context
from ascend_passes.ir.settle import settle_graph
from ascend_passes.ir.sharing import keep_results_apart, plain_results
from ascend_passes.options.errors import ExpectationError as ExpectationError
from ascend_passes.options.value import OptionError, switched_on
from ascend_passes.report.expected import reached
from ascend_passes.report.value import Report
from ascend_passes.verify.structure import Structure
from ascend_passes.verify.validate import Baseline, notes_of

Result = TypeVar("Result")


PASSED_ON = (AgreementError, DepartureError, ExecutorError, OptionError, RuleError)
"""Errors that are no fault of a pass."""


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
    settle_graph(gm.graph)
    original, plain = Blueprint.of(gm.graph), plain_results(gm.graph)
    skipped: dict[str, str] = {}
    baseline = Baseline.of(gm, context) if context.options.validate else None
    while True:
        structure = Structure(gm.graph) if context.options.verify_each_stage else None
        report, failed = attempt_stages(gm, context, skipped, baseline, structure)
        if failed is None:
            break
        name, error = failed
        if context.options.strict or isinstance(error, PASSED_ON):
            raise error
        skipped[name] = left_out(name, error)
        gm.graph = original.made()[0]
    keep_results_apart(gm.graph, plain)
    gm.graph.lint()
    gm.recompile()
    return report + Report(errors=tuple(skipped.values()), notes=notes_of(baseline))


def attempt_stages(
    gm: fx.GraphModule,
    context: Context,
    skipped: Mapping[str, str],
    baseline: Baseline | str | None,
    structure: Structure | None,
) -> tuple[Report, tuple[str, Exception] | None]:
    """Run the stages once, each held against `baseline` and `structure` where there is one; the
    report, or the stage that failed and its error."""
    report = Report()
    for stage in STAGES:
        if stage.name in skipped or not switched_on(stage.name, context.options.passes):
            continue
        start = time.perf_counter()
        try:
            found = stage.run(gm.graph, context)
            if structure is not None:
                structure.require(gm.graph)
            if isinstance(baseline, Baseline):
                baseline.require_same(gm)
        except Exception as error:  # a failing pass never breaks the user's model
            return report, (stage.name, error)
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
    original = Blueprint.of(gm.graph)
    try:
        return step(), Report()
    except Exception as error:  # a failing pass never breaks the user's model
        if context.options.strict or isinstance(error, PASSED_ON):
            raise
        gm.graph = original.made()[0]
        gm.recompile()
        return None, Report(errors=(left_out(name, error),))


def left_out(name: str, error: Exception) -> str:
    """The line of a report for a step that failed."""
    return f"{name} failed and was left out: {type(error).__name__}: {error}"


def check_expectations(report: Report, context: Context) -> None:
    """Raise ExpectationError where counts are below `expect`, or `strict` and a match was refused
    that an operator could have taken."""
    short = [
        f"{name} fired {reached(report, name)} times, expected {count}"
        for name, count in context.options.expect.items()
        if reached(report, name) < count
    ]
    if context.options.strict:
        short += [f"{miss.rule} at {miss.place}: {miss.reason}" for miss in refusals(report.misses)]
    if short:
        raise ExpectationError("; ".join(short) + f"\n{report}")
