"""A failing program made smaller while it fails in the same way."""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fuzz.check import WRONG, Verdict, check
from tests.fuzz.program import Program, Step

SECONDS = 120.0
"""One program is made smaller for so long at most."""
Fails = Callable[[Program], bool]


def minimize(program: Program, verdict: Verdict, seconds: float = SECONDS) -> Program:
    """The smallest program found that fails as `verdict` says, within the time."""
    formulas = any(place == "float64" for place, _ in verdict.keys)
    end = time.monotonic() + seconds

    def fails(candidate: Program) -> bool:
        found = check(candidate, formulas)
        return found.kind == WRONG and bool(found.keys & verdict.keys)

    return smallest(program, fails, lambda: time.monotonic() < end)


def smallest(program: Program, fails: Fails, more_time: Callable[[], bool]) -> Program:
    """The program after every simplification that keeps it failing, until none does."""
    while True:
        before = program
        for candidates in (sliced, options, results, halves, calls, steps, given, sizes):
            program = reduced(program, candidates, fails, more_time)
        if program == before or not more_time():
            return program


def reduced(
    program: Program,
    candidates: Callable[[Program], Iterator[Program]],
    fails: Fails,
    more_time: Callable[[], bool],
) -> Program:
    """The program after the candidates of one kind, each tried on what the last one left."""
    tried = set()
    progress = True
    while progress:
        progress = False
        for candidate in candidates(program):
            candidate = without_dead(candidate)
            if candidate == program or candidate in tried:
                continue
            if not more_time():
                return program
            tried.add(candidate)
            if fails(candidate):
                program, progress = candidate, True
                break
    return program


def options(program: Program) -> Iterator[Program]:
    """Fewer options, then plain ways of calling."""
    if program.options:
        yield replace(program, options=())
    for index in range(len(program.options)):
        kept = program.options[:index] + program.options[index + 1 :]
        yield replace(program, options=kept)
    for name, value in program.options:
        for word in value.split(",") if name in ("rules", "passes") else ():
            rest = ",".join(other for other in value.split(",") if other != word)
            yield replace(
                program, options=tuple(sorted({**dict(program.options), name: rest}.items()))
            )
    plain = {"write_results": False, "poison": False, "inference": False, "dynamic": None}
    for name, value in plain.items():
        if getattr(program, name) != value:
            yield replace(program, **{name: value})


def sliced(program: Program) -> Iterator[Program]:
    """One result or two, and only the steps behind them: the largest jump."""
    names = list(dict.fromkeys(program.results))
    chosen = [(name,) for name in names]
    chosen += [pair for pair in itertools.combinations(names, 2)]
    for few in (*chosen[:12], program.results):
        yield replace(program, results=few, steps=behind(program, few))


def behind(program: Program, names: tuple[str, ...]) -> tuple[Step, ...]:
    """The steps that made these names, or that touched something that they come from."""
    needed = set(names)
    while True:
        kept = tuple(s for s in program.steps if needed.intersection(s.results))
        more = needed.union(*(step.arguments for step in kept))
        if more == needed:
            return kept
        needed = more


def results(program: Program) -> Iterator[Program]:
    """Fewer results."""
    for index in range(len(program.results)):
        if len(program.results) > 1:
            kept = program.results[:index] + program.results[index + 1 :]
            yield replace(program, results=kept, steps=behind(program, kept))


def calls(program: Program) -> Iterator[Program]:
    """Fewer calls, fewer parameters written between them, in a plainer manner."""
    for index, call in enumerate(program.calls):
        if len(program.calls) > 1:
            yield replace(program, calls=program.calls[:index] + program.calls[index + 1 :])
        if call.rewrite:
            yield with_call(program, index, rewrite="", rewritten=())
        for name in call.rewritten if len(call.rewritten) > 1 else ():
            yield with_call(program, index, rewritten=tuple(n for n in call.rewritten if n != name))
        if call.rewrite not in ("", "no_grad_copy"):
            yield with_call(program, index, rewrite="no_grad_copy")


def with_call(program: Program, index: int, **changes: object) -> Program:
    """The program with one call changed."""
    changed = list(program.calls)
    changed[index] = replace(changed[index], **changes)  # type: ignore[arg-type]
    return replace(program, calls=tuple(changed))


def halves(program: Program) -> Iterator[Program]:
    """The first half of the steps, returning what it made last: large jumps come first."""
    count = len(program.steps)
    for part in (count // 2, 3 * count // 4):
        if 0 < part < count:
            yield replace(
                program, steps=program.steps[:part], results=program.steps[part - 1].results[-1:]
            )


def steps(program: Program) -> Iterator[Program]:
    """One step fewer: its readers take an argument of it instead, or a fresh input."""
    for index in range(len(program.steps) - 1, -1, -1):
        step = program.steps[index]
        rest = program.steps[:index] + program.steps[index + 1 :]
        yield replace(program, steps=rest)
        for argument in dict.fromkeys(step.arguments):
            yield renamed(program, rest, dict.fromkeys(step.results, argument))


def renamed(program: Program, rest: tuple[Step, ...], names: dict[str, str]) -> Program:
    """A program of these steps, with other names for what a step made."""

    def name(one: str) -> str:
        return names.get(one, one)

    changed = tuple(replace(step, arguments=tuple(map(name, step.arguments))) for step in rest)
    return replace(program, steps=changed, results=tuple(map(name, program.results)))


def given(program: Program) -> Iterator[Program]:
    """Plainer inputs and parameters."""
    for index, one in enumerate(program.given):
        for name, value in {"layout": "dense", "same": "", "equal": ""}.items():
            if getattr(one, name) != value:
                changed = list(program.given)
                changed[index] = replace(one, **{name: value})
                yield replace(program, given=tuple(changed))


def sizes(program: Program) -> Iterator[Program]:
    """Smaller sizes: of the calls, all alike first; then the program's own."""
    first = program.calls[0].sizes
    yield replace(program, calls=tuple(replace(call, sizes=first) for call in program.calls))
    for index, call in enumerate(program.calls):
        known = dict(call.sizes)
        for name in ("B", "S"):
            for smaller in (1, 2):
                if known.get(name, 0) > smaller:
                    new = {**known, name: smaller}
                    new["T"] = new.get("B", 1) * new.get("S", 1)
                    yield with_call(program, index, sizes=tuple(new.items()))
    numbers = {size for one in program.given for size in one.shape if isinstance(size, int)}
    for number in sorted(numbers, reverse=True):
        for smaller in (number // 2, number // 4):
            if smaller > 0:
                yield narrower(program, number, smaller)


def narrower(program: Program, number: int, smaller: int) -> Program:
    """A number of the program's own, in shapes and in steps, replaced by a smaller one."""
    word = re.compile(rf"(?<![\w.{{-]){number}(?![\w.}}])")
    shapes = tuple(
        replace(one, shape=tuple(smaller if size == number else size for size in one.shape))
        for one in program.given
    )
    texts = tuple(replace(s, text=word.sub(str(smaller), s.text)) for s in program.steps)
    return replace(program, given=shapes, steps=texts)


def without_dead(program: Program) -> Program:
    """Without inputs and parameters that no step reads and no result is."""
    used = {argument for step in program.steps for argument in step.arguments}
    used |= set(program.results)
    names = {one.name for one in program.given if one.place in used}
    for one in program.given:
        if one.name in names:
            names |= {other for other in (one.same, one.equal) if other}
    kept = tuple(one for one in program.given if one.name in names)
    return dataclasses.replace(program, given=kept)
