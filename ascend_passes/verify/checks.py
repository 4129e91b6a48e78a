"""The checks that are made from a rule's declaration.

Each takes a rule, one of its spellings and a seed, and yields a sentence for each fault.
"""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.normalize import normalize
from ascend_passes.engine.rule import Rule, Spelling, conditions, refusal
from ascend_passes.engine.template_value import COMMUTATIVE, literal
from ascend_passes.ir.blueprint import copied_module
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import value
from ascend_passes.verify.alike_ranks import renamed
from ascend_passes.verify.choices import choices_without_form
from ascend_passes.verify.difference import differences
from ascend_passes.verify.exact import run_exactly
from ascend_passes.verify.firing import each_call, firing, only, rewritten, several, told, with_line
from ascend_passes.verify.mutate import (
    another_use,
    changes,
    insert_behind,
    pattern_calls,
    refreshed,
    same_cast,
    same_copy,
    same_view,
    structure,
)
from ascend_passes.verify.trial import SCALES, trials, wrong_trials

aten = torch.ops.aten
MOST_LINES = 60
"""A rule file that is longer says more than one thing."""
Check = Callable[[Rule, Spelling, int], Iterator[str]]


def fires_and_agrees(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """It fires once at each dtype and size that no limit forbids, and both sides agree there."""
    fired, reasons = False, set()
    for dtype in rule.dtypes:
        for trial in trials(rule, spelling, dtype, seed):
            gm = trial.graph()
            after, report = rewritten(gm, trial.rule)
            if report.fired.get(rule.name) == 1:
                fired = True
                yield from differences(trial, gm, after)
            elif report.fired:
                yield f"fires {report.fired[rule.name]} times on one pattern ({trial})"
            elif not any(miss.complete for miss in report.misses):
                yield f"does not match its own pattern: {told(report)} ({trial})"
            reasons.add(told(report))
    if not fired:
        yield f"fires at none of its dtypes: {'; '.join(sorted(reasons))}"


def takes_symbolic_rows(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """It fires with a symbolic number of rows as well, and the result serves other numbers."""
    for dtype in rule.dtypes:
        trial = next(trials(rule, spelling, dtype, seed))
        if not trial.row_sizes or not rewritten(trial.graph(), rule)[1].fired:
            continue
        gm = trial.graph(dynamic=trial.row_sizes)
        after, report = rewritten(gm, trial.rule)
        if not report.fired:
            yield f"does not fire where rows are symbolic: {told(report)} ({trial})"
            continue
        yield from differences(trial, gm, after)
        yield from differences(trial.with_more_rows(), gm, after)


def scalars_matter(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """Each scalar changes the result, and the replacement follows it."""
    trial = firing(rule, spelling, seed)
    if trial is None:
        return
    before = [run_exactly(trial.graph(), trial.inputs(scale)) for scale in SCALES]
    for name, number in trial.scalars.items():
        other = another(rule, name, number)
        changed = replace(trial, scalars={**trial.scalars, name: other})
        gm = changed.graph()
        now = [run_exactly(gm, trial.inputs(scale)) for scale in SCALES]
        named = isinstance(number, str)  # which group it is changes nothing where ranks are alike
        if not named and all(map(torch.equal, itertools.chain(*before), itertools.chain(*now))):
            yield f"{name} = {number} and {name} = {other} give one result ({trial})"
        after, report = rewritten(gm, trial.rule)
        if not report.fired:
            yield f"does not fire with {name} = {other}: {told(report)} ({trial})"
        else:
            yield from differences(changed, gm, after)


def another(rule: Rule, name: str, tried: Any) -> Any:
    """Another value of a scalar."""
    if name in rule.values:
        return rule.values[name][-1]
    return renamed(tried) if isinstance(tried, str) else 3 * tried


def operands_commute(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """It fires with the operands of each sum and product swapped."""
    trial = firing(rule, spelling, seed)
    if trial is None:
        return
    for gm, node in each_call(trial):
        if node.target not in COMMUTATIVE or not all(isinstance(a, fx.Node) for a in node.args[:2]):
            continue
        node.args = (node.args[1], node.args[0], *node.args[2:])
        _, report = rewritten(gm, trial.rule)
        if not report.fired:
            yield f"does not fire with the operands of {node} swapped: {told(report)} ({trial})"


def literals_count(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """It does not fire where a literal of the pattern is another; another spelling may, rightly."""
    trial = firing(rule, spelling, seed)
    if trial is None:
        return
    alone = only(trial.rule, spelling)
    original = trial.graph()
    written, kept = structure(original.graph), set(map(literal, trial.scalars.values()))
    for node in pattern_calls(original.graph):
        for args, kwargs in changes((node.args, node.kwargs), kept):
            gm, new = copied_module(original)
            new[node].args = fx.node.map_arg(args, new.__getitem__)
            new[node].kwargs = fx.node.map_arg(kwargs, new.__getitem__)
            if not refreshed(gm.graph):
                continue  # no program
            call = f"{node.target}{args}{kwargs or ''}"
            normalize(gm.graph)
            if structure(gm.graph) == written:
                continue  # another way to write the same
            if rewritten(gm, alone)[1].fired:
                yield f"fires although {node} is {call} ({trial})"
                continue
            after, report = rewritten(gm, trial.rule)
            if report.fired:
                gm.recompile()
                for sentence in differences(trial, gm, after):
                    yield f"where {node} is {call}, another spelling fires: {sentence}"


def shared_values_stay(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """It does not fire where a value inside has another user, or that user still gets the value;
    another spelling may, rightly."""
    trial = firing(rule, spelling, seed)
    if trial is None:
        return
    alone = only(trial.rule, spelling)
    for gm, node in each_call(trial):
        results = gm.graph.output_node().args[0]
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        shared = another_use(node)
        if shared is None or shared in results:
            continue
        gm.graph.output_node().args = ([*results, shared],)
        gm.recompile()
        if not rule.shares and rewritten(gm, alone)[1].fired:
            yield f"fires although {node} has a user outside the pattern ({trial})"
            continue
        after, report = rewritten(gm, trial.rule)
        if report.fired:
            yield from differences(trial, gm, after)


def sees_through_no_ops(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """It fires where views, casts and copies that change nothing stand between all operators."""
    trial = firing(rule, spelling, seed)
    if trial is None:
        return
    for insert in (same_view, same_cast, same_copy):
        gm = trial.graph()
        for node in list(gm.graph.nodes):
            if node.op == "call_function" and isinstance(value(node), Tensor):
                insert_behind(node, insert(value(node)))
        normalize(gm.graph)
        _, report = rewritten(gm, trial.rule)
        if not report.fired:
            yield f"does not fire behind a {insert.__name__}: {told(report)} ({trial})"


def respects_writes(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """A write to an input in the middle of the pattern keeps its effect and its place."""
    trial = firing(rule, spelling, seed)
    if trial is None:
        return
    for index in range(len(spelling.inputs)):
        gm = trial.graph()
        inputs = gm.graph.find_nodes(op="placeholder")
        target = next(iter(inputs[index].users))
        calls = [n for n in pattern_calls(gm.graph) if n.target is not operator.getitem]
        if len(calls) < 2:
            return
        with Editor(gm.graph).at(calls[0], calls[0].next) as edit:
            edit.known(value(target), aten.neg_.default, target)
        gm.recompile()
        after, report = rewritten(gm, trial.rule)
        if report.fired:
            for sentence in differences(trial, gm, after):
                yield f"with {spelling.inputs[index].name} written in its middle, {sentence}"


def conditions_refuse(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """Each line of `where` refuses, for exactly its reason, where sizes, dtypes or a scalar's
    own values falsify it.

    The engine stops at the first line that fails, so each is tried as the only one.
    """
    seen: set[int] = set()
    lines = 0
    for trial in wrong_trials(rule, spelling, seed):
        given = list(conditions(rule, trial.fakes(), trial.sizes, trial.given))
        lines = max(lines, len(given))
        for index, condition in enumerate(given):
            reason = refusal(condition)
            if reason is None or index in seen:
                continue
            seen.add(index)
            _, report = rewritten(trial.graph(), with_line(rule, index))
            if report.fired:
                yield f"fires although {reason} ({trial})"
            elif reason not in {miss.reason for miss in report.misses if miss.complete}:
                yield f"is refused for {told(report)!r}, not for {reason!r} ({trial})"
    for index in sorted(set(range(lines)) - seen):
        yield f"no dtype, size or scalar that is tried falsifies line {index + 1} of where"


def is_documented(rule: Rule, spelling: Spelling, seed: int) -> Iterator[str]:
    """The file has a docstring and stays short; each of several functions says what it is, and
    each choice is a form with some of the others."""
    if several(rule) and not inspect.getdoc(spelling.function):
        yield f"{spelling.name} has no docstring; say in a line whose spelling it is"
    if spelling is not rule.spellings[0]:
        return
    if not rule.summary:
        yield "the file has no docstring; its first sentence says what becomes what"
    lines = len(Path(rule.source).read_text().splitlines()) if rule.source else 0
    if lines >= MOST_LINES:
        yield f"the file has {lines} lines, a rule has less than {MOST_LINES}"
    yield from choices_without_form(rule)


CHECKS: tuple[Check, ...] = (
    is_documented,
    fires_and_agrees,
    takes_symbolic_rows,
    scalars_matter,
    operands_commute,
    literals_count,
    shared_values_stay,
    sees_through_no_ops,
    respects_writes,
    conditions_refuse,
)
