"""One program, judged."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import ascend_passes
from ascend_passes.backend import ascend_dense
from ascend_passes.compile.pipeline import ExpectationError
from tests.fuzz.compare import Difference, differences
from tests.fuzz.float64 import Traced, formula_differences, traced
from tests.fuzz.observe import Observation
from tests.fuzz.program import Program
from tests.fuzz.worlds import eager, exact, noisy, run

NOISES, MORE_NOISES = (1, 2), tuple(range(3, 15))
"""Seeds; more are drawn where something differs, since a few values may not move in two draws."""
RIGHT, WRONG, REFUSED, TORCH = "right", "wrong", "refused", "torch"
GENERATOR, UNJUDGED = "generator", "unjudged"
"""`torch`: aot_eager, without a pass of ours, differs from eager in the same way. `generator`: not
even eager runs it. `unjudged`: it cannot be computed in float64, where a cast that made a copy is
none, so that it would write elements that share memory."""


@dataclass(frozen=True)
class Verdict:
    """What came out."""

    kind: str
    lines: tuple[str, ...] = ()
    keys: frozenset[tuple[str, str]] = frozenset()
    """What makes it the same fault while a program is made smaller."""
    fired: Mapping[str, int] = field(default_factory=dict)


def compiled_by(program: Program, backend: Any, options: Mapping[str, Any] | None = None) -> Any:
    """How a module is compiled for a program."""
    more = {"options": dict(options)} if options else {}
    return lambda module: torch.compile(module, backend=backend, dynamic=program.dynamic, **more)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch and the reports say meanwhile."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def check(
    program: Program, formulas: bool = True, more: Mapping[str, Any] | None = None
) -> Verdict:
    """Run a program in every world and compare.

    Args:
        program: what is run.
        formulas: also compare the rewritten graphs with what they were, in float64.
        more: options beside the program's own.
    """
    with quiet():
        try:
            expected = run(program, eager(program))
        except Exception as error:
            return Verdict(GENERATOR, (short(error),))
        try:
            reference = run(program, exact())
            moved = [run(program, noisy(program, seed)) for seed in NOISES]
        except Exception as error:
            return Verdict(UNJUDGED, (short(error),))
        dtype = getattr(torch, program.dtype)

        def judge(found: list[Observation]) -> list[Difference]:
            return differences(dtype, expected, found, reference, moved)

        options = {**dict(program.options), **(more or {})}
        ascend_passes.reset()
        with traced() as graphs:
            verdict = judged(program, judge, options)
        if verdict.kind == WRONG:
            moved += [run(program, noisy(program, seed)) for seed in MORE_NOISES]
            ascend_passes.reset()
            with traced() as graphs:
                verdict = judged(program, judge, options)
        reports = ascend_passes.reports()
        fired = fired_by(reports)
        errors = tuple(f"pass failed: {e}" for report in reports for e in report.errors)
        verdict = Verdict(verdict.kind, verdict.lines, verdict.keys, fired)
        if errors and verdict.kind in (RIGHT, TORCH):
            return Verdict(WRONG, errors, frozenset({("pass", "failed")}), fired)
        if verdict.kind == RIGHT and formulas:
            return with_formulas(program, graphs, verdict)
        return verdict


def fired_by(reports: Iterable[ascend_passes.Report]) -> Mapping[str, int]:
    """How often each rule, each of its spellings and each pass fired."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.fired)
        total.update(report.spellings)
    return +total


def judged(program: Program, judge: Any, options: Mapping[str, Any]) -> Verdict:
    """The verdict on the compiled program in its own dtype."""
    torch._dynamo.reset()
    try:
        found = run(program, eager(program, compiled_by(program, ascend_dense, options)))
    except Exception as error:
        cause = error.inner_exception if hasattr(error, "inner_exception") else error
        if isinstance(cause, ExpectationError) or isinstance(error.__cause__, ExpectationError):
            return Verdict(REFUSED, (short(error),))
        keys = frozenset({("raises", type(cause).__name__)})
        return torchs_own(program, judge, Verdict(WRONG, (f"raises {short(error)}",), keys))
    different = judge(found)
    if not different:
        return Verdict(RIGHT)
    lines = tuple(map(str, different))
    return torchs_own(
        program, judge, Verdict(WRONG, lines, frozenset(one.key for one in different))
    )


def torchs_own(program: Program, judge: Any, verdict: Verdict) -> Verdict:
    """The verdict, without what differs in the same way when no pass of ours has run."""
    torch._dynamo.reset()
    try:
        found = run(program, eager(program, compiled_by(program, "aot_eager")))
    except Exception:
        return Verdict(TORCH, ("aot_eager raises", *verdict.lines), verdict.keys)
    theirs = frozenset(one.key for one in judge(found))
    ours = verdict.keys - theirs
    return Verdict(WRONG if ours else TORCH, verdict.lines, ours or verdict.keys)


def with_formulas(program: Program, graphs: list[Traced], verdict: Verdict) -> Verdict:
    """The verdict on the formula of the rewritten graphs."""
    try:
        found = formula_differences(program, graphs)
    except Exception as error:
        return Verdict(WRONG, (f"float64: {short(error)}",), frozenset({("float64", "raises")}))
    if not found:
        return verdict
    return Verdict(WRONG, tuple(found), frozenset({("float64", "differs")}), verdict.fired)


def short(error: BaseException) -> str:
    """An error in a few lines."""
    return f"{type(error).__name__}: {str(error)[:600]}"
