"""Reports of equal graphs as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ascend_passes.report.value import Kernel, Report


@dataclass(frozen=True)
class Merged:
    """A graph that was compiled once or more."""

    report: Report
    """Of the first time."""
    numbers: tuple[int, ...]
    """Which of all the reports, counted from 1."""
    cold: float
    """Seconds of the first time."""
    warm: float | None
    """Seconds of the fastest time after it; None where there was one time."""


def merged(reports: Iterable[Report]) -> list[Merged]:
    """Reports in order, those of graphs that differ in seconds and sizes alone together."""
    found: dict[object, list[tuple[int, Report]]] = {}
    for number, report in enumerate(reports, 1):
        found.setdefault(what_became(report), []).append((number, report))
    return [of_equal(group) for group in found.values()]


def of_equal(group: list[tuple[int, Report]]) -> Merged:
    """The reports of one graph."""
    (_, first), *others = group
    warm = min((sum(one.seconds.values()) for _, one in others), default=None)
    numbers = tuple(number for number, _ in group)
    return Merged(first, numbers, sum(first.seconds.values()), warm)


def what_became(report: Report) -> object:
    """All that a person is told of a graph but seconds, sizes and names of nodes."""
    left = tuple((one.family, one.place, one.reason) for one in report.left)
    misses = frozenset((one.rule, one.place, one.reason) for one in report.misses)
    choices = tuple((one.subject, one.chosen) for one in report.decisions)
    mappings = (report.fired, report.spellings, report.kept)
    counts = tuple(frozenset(one.items()) for one in mappings)
    texts = (report.notes, report.errors, report.plan, report.captures)
    return counts, left, misses, choices, texts, kinds(report.before), kinds(report.after)


def kinds(kernels: Iterable[Kernel]) -> tuple[tuple[str, str], ...]:
    """What runs where."""
    return tuple((one.operator, one.place.module) for one in kernels)
