"""Graphs on which a rule fires, for the checks to change."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ascend_passes.engine.rewrite import rewrite
from ascend_passes.engine.rule import Condition, Rule, Spelling
from ascend_passes.ir.blueprint import copied_module
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options
from ascend_passes.report.value import Report
from ascend_passes.verify.alike_ranks import assumed_groups
from ascend_passes.verify.mutate import pattern_calls
from ascend_passes.verify.trial import Trial, trials

STRICT = Context(Options(strict=True))
"""A rule that raises is told by what it raised, where a model would be compiled without it."""


def only(rule: Rule, spelling: Spelling) -> Rule:
    """The rule with one of its spellings."""
    others = frozenset(other.name for other in rule.spellings) - {spelling.name}
    return replace(rule, without=rule.without | others)


@functools.cache
def at_dtype(rule: Rule, dtype: torch.dtype) -> Rule:
    """The rule for one dtype; the same one each time, since templates are kept by rule."""
    return replace(rule, dtypes=(dtype,))


@functools.cache
def with_line(rule: Rule, index: int) -> Rule:
    """The rule with one line of its `where`."""
    where = rule.where
    assert where is not None

    @functools.wraps(where)
    def line(**given: Any) -> Iterator[Condition]:
        yield list(where(**given))[index]

    return replace(rule, where=line)


def several(rule: Rule) -> bool:
    """Whether a rule's pattern is several functions."""
    return len({inspect.unwrap(spelling.function) for spelling in rule.spellings}) > 1


def rewritten(gm: fx.GraphModule, rule: Rule) -> tuple[fx.GraphModule, Report]:
    """A copy of a normal graph after the rule, and what happened; the graph itself stays."""
    after, _ = copied_module(gm)
    with assumed_groups():
        report = rewrite(after.graph, [rule], STRICT)
    after.recompile()
    return after, report


def told(report: Report) -> str:
    """Why the rule did not fire, in its own words."""
    return "; ".join(dict.fromkeys(miss.reason for miss in report.misses)) or "no operator was near"


@functools.lru_cache(maxsize=64)
def firing(rule: Rule, spelling: Spelling, seed: int) -> Trial | None:
    """The first example's trial at the first dtype that fires; None where none does.

    Its rule is for that dtype alone: half precision computes in float32 inside, where a rule for
    float32 may rightly fire on what a rule for half precision must leave.
    """
    for dtype in rule.dtypes:
        alone = at_dtype(rule, dtype)
        trial = next(trials(alone, spelling, dtype, seed))
        if rewritten(trial.graph(), alone)[1].fired:
            return trial
    return None


def each_call(trial: Trial) -> Iterator[tuple[fx.GraphModule, fx.Node]]:
    """Each operator call of the pattern, in a graph of its own that may be changed."""
    original = trial.graph()
    for node in pattern_calls(original.graph):
        gm, new = copied_module(original)
        yield gm, new[node]
