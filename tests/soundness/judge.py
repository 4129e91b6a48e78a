"""Runs a case without compiling, under `aot_eager` and under `ascend_dense`, and compares.

A fact is a fault where `ascend_dense` differs from both of the others; it is shared where the
two backends agree and eager differs.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy
import torch

import ascend_passes
from ascend_passes.meaning.recognize import recognitions
from tests.soundness.case import Case, Compile, Scenario, SkipError
from tests.soundness.observe import COPIES, Bits, Record, bits

REFERENCE, OURS = "aot_eager", "ascend_dense"
ABSENT = "nothing"
TYPICAL, FARTHEST = 1.1, 4.0
"""Times the distance of `aot_eager` from float64 that a recognized operator's values may have."""
MOST_SMALLER = 80
"""Scenarios that are tried in the search for a minimal one."""
Begin = Callable[[str], None]


@dataclass(frozen=True)
class Fault:
    """A fact that differs."""

    fact: str
    ours: str
    theirs: str

    @property
    def kind(self) -> str:
        """`values`, `strides`, `shared memory`, `raises`..."""
        return self.fact.split(" | ")[-1]


@dataclass(frozen=True)
class Verdict:
    """What became of a case."""

    faults: tuple[Fault, ...] = ()
    shared: int = 0
    """Facts in which both backends differ from eager."""
    skipped: str = ""
    seconds: float = 0.0


def judge(case: Case, seed: int, begin: Begin = lambda _: None) -> Verdict:
    """The verdict on one case; `begin` is told which backend runs next."""
    start = time.perf_counter()
    with stable():
        try:
            scenario = built(case, seed)
        except SkipError as reason:
            return Verdict(skipped=str(reason), seconds=time.perf_counter() - start)
        faults, shared = compare(scenario, seed, begin)
    gc.collect()
    return Verdict(faults, shared, seconds=time.perf_counter() - start)


def built(case: Case, seed: int) -> Scenario:
    """The scenario of a case.

    Raises:
        SkipError: there is nothing to run.
    """
    seed_all(seed)
    return case.build(seed)


def minimal(scenario: Scenario, seed: int) -> Scenario:
    """A smaller scenario that still has one of the faults, found by leaving out parts in turn."""
    with stable():
        kind = compare(scenario, seed)[0][0].kind
        pending = scenario.smaller()
        for _ in range(MOST_SMALLER):
            if not pending:
                break
            tried = pending.pop(0)
            if any(fault.kind == kind for fault in compare(tried, seed)[0]):
                scenario, pending = tried, tried.smaller()
    return scenario


def compare(
    scenario: Scenario, seed: int, begin: Begin = lambda _: None
) -> tuple[tuple[Fault, ...], int]:
    """The faults of a scenario, and the number of those that `aot_eager` has as well."""
    eager = observed(scenario, None, seed)
    begin(REFERENCE)
    theirs = observed(scenario, REFERENCE, seed)
    begin(OURS)
    ours = observed(scenario, OURS, seed)
    recognized = any(set(report.fired) & set(recognitions()) for report in ascend_passes.reports())
    faults = differences(eager, theirs, ours)
    if recognized:
        faults = beyond_rounding(faults, theirs, ours)
        faults = farther_from_exact(faults, theirs, ours, scenario, seed)
    if any(fault.fact != "report" for fault in faults):
        faults = repeatable(faults, theirs, observed(scenario, REFERENCE, seed))
    return faults, sum(
        not same(eager, theirs, name) and same(theirs, ours, name) for name in theirs
    )


def differences(
    eager: dict[str, Any], theirs: dict[str, Any], ours: dict[str, Any]
) -> tuple[Fault, ...]:
    """The facts in which `ours` is neither what eager gives nor what `aot_eager` gives."""
    names = {**ours, **theirs}
    return tuple(
        Fault(name, str(ours.get(name, ABSENT)), str(theirs.get(name, ABSENT)))
        for name in names
        if not same(theirs, ours, name)
        and not same(eager, ours, name)
        and comparable(eager, theirs, ours, name)
    )


def beyond_rounding(
    faults: tuple[Fault, ...], theirs: dict[str, Any], ours: dict[str, Any]
) -> tuple[Fault, ...]:
    """The faults of a graph with an operator by meaning, which may round less than a spelling does:
    all but values that are the same to rounding."""
    return tuple(
        fault for fault in faults if not near(ours.get(fault.fact), theirs.get(fault.fact))
    )


def farther_from_exact(
    faults: tuple[Fault, ...],
    theirs: dict[str, Any],
    ours: dict[str, Any],
    scenario: Scenario,
    seed: int,
) -> tuple[Fault, ...]:
    """The faults but for values that are as near to eager's in float64 as those of `aot_eager`.

    Where a result is a small difference of large numbers, or a quotient of it, each rounding of a
    narrow dtype shows in it beyond the rounding of one operator.
    """
    if scenario.wide is None or not any(fault.kind == "values" for fault in faults):
        return faults
    exact = observed(scenario.wide(), None, seed)
    runs = ours, theirs, exact
    return tuple(f for f in faults if not as_near(*(run.get(f.fact) for run in runs)))


def as_near(ours: Any, theirs: Any, exact: Any) -> bool:
    """Whether values are as far from the exact ones as the other ones: half of them within
    `TYPICAL` times their distance, and all within `FARTHEST` times their largest.

    The largest is one element's luck where a result is divided by a difference.
    """
    if not all(isinstance(one, Bits) for one in (ours, theirs, exact)):
        return False
    found, other, true = (torch.as_tensor(one.shown).double() for one in (ours, theirs, exact))
    if not found.shape == other.shape == true.shape or not true.numel():
        return False
    mine, others = ((one - true).abs() for one in (found, other))
    typical = float(mine.median()) <= TYPICAL * float(others.median())
    return typical and float(mine.max()) <= FARTHEST * float(others.max())


def comparable(
    eager: dict[str, Any], theirs: dict[str, Any], ours: dict[str, Any], name: str
) -> bool:
    """Whether there is a reference for a fact in which `ours` differs from both others.

    * Where `aot_eager` raised and eager did not, values are eager's to rounding: gradients that a
      graph adds up come in another order.
    * Where eager raised at a write, and `aot_eager` lets results share memory that eager and we
      keep apart, the numbers after the write are its own.
    * Where eager refuses to differentiate with what was written after it was saved, and
      `aot_eager` does it, its numbers depend on whether it saved or computes again. Then values
      are, to rounding, eager's gradients for a write of copies of the results.
    """
    if name not in theirs and name in eager and name in ours:
        return not near(ours[name], eager[name], narrowest(eager))
    stage, _, rest = name.partition(" | ")
    of_copies = eager.get(f"{stage}{COPIES} | {rest}")
    if name not in eager and of_copies is not None and near(ours.get(name), of_copies):
        return False
    sharing = f"{stage} | shared memory"
    return name in eager or same(eager, theirs, sharing) or not same(eager, ours, sharing)


def near(ours: Any, theirs: Any, kind: torch.dtype | None = None) -> bool:
    """Whether two facts are values that are the same to rounding, of a dtype where given."""
    return isinstance(ours, Bits) and ours.near(theirs, kind)


def narrowest(facts: dict[str, Any]) -> torch.dtype | None:
    """bfloat16 or float16 where a value is of that: gradients of another dtype are added up in it;
    None where none is."""
    seen = {fact for name, fact in facts.items() if name.endswith(" | dtype")}
    halves = (torch.bfloat16, torch.float16)
    return next((kind for kind in halves if str(kind) in seen), None)


def same(theirs: dict[str, Any], ours: dict[str, Any], name: str) -> bool:
    """Whether a fact is the same in two runs; a message may say more than the other."""
    one, other = theirs.get(name, ABSENT), ours.get(name, ABSENT)
    if name.endswith("message") and one is not ABSENT and other is not ABSENT:
        return one in other
    return bool(one == other)


def repeatable(
    faults: tuple[Fault, ...], first: dict[str, Any], second: dict[str, Any]
) -> tuple[Fault, ...]:
    """The faults without the facts that `aot_eager` itself does not give twice."""
    return tuple(fault for fault in faults if same(first, second, fault.fact))


def observed(scenario: Scenario, backend: str | None, seed: int) -> dict[str, Any]:
    """The facts of one run."""
    torch._dynamo.reset()
    ascend_passes.reset()
    record = Record()
    with (
        torch._dynamo.config.patch(dict(scenario.config)),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        seed_all(seed)
        record.attempt("run", lambda: scenario.run(compiler(backend, scenario.dynamic), record))
    record.note("random numbers after", bits(torch.get_rng_state()))
    for text in complaints(said):
        record.note("report", text)
    return record.facts


def complaints(said: list[warnings.WarningMessage]) -> Iterator[str]:
    """What this package warned of, and the passes that failed."""
    yield from (str(one.message) for one in said if "ascend" in f"{one.filename} {one.message}")
    yield from (error for report in ascend_passes.reports() for error in report.errors)


def compiler(backend: str | None, dynamic: bool | None) -> Compile:
    """Compiles with a backend; None leaves functions as they are."""
    if backend is None:
        return lambda function: function
    return lambda function: torch.compile(function, backend=backend, dynamic=dynamic)


def warm_up() -> None:
    """Load what the first compilation loads, and take it out of what garbage collection looks at.

    Dynamo collects garbage at each reset, which takes longer than a case with all of torch to see.
    """
    torch._dynamo.reset()
    with torch.no_grad():
        compiler(OURS, None)(torch.sin)(torch.ones(2))
    gc.collect()
    gc.freeze()


def seed_all(seed: int) -> None:
    """The same random numbers from here on."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


@contextlib.contextmanager
def stable() -> Iterator[None]:
    """Uninitialized memory is filled, with NaN or the largest integer: who reads it, shows it."""
    # Dynamo times its guards after flushing the processor's caches: 60 ms for a number in a log.
    timer = mock.patch.object(torch._dynamo.guards, "profile_guard_manager", lambda *_: 0.0)
    mode, dtype = torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()
    torch.use_deterministic_algorithms(True, warn_only=True)
    logging.disable(logging.CRITICAL)
    try:
        with torch.random.fork_rng(), timer:
            yield
    finally:
        logging.disable(logging.NOTSET)
        torch.use_deterministic_algorithms(mode)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(True)
