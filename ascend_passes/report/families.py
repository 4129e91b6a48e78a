"""What was fused, of what could have been, and what was left: by family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ascend_passes.report.layers import modules
from ascend_passes.report.value import Left, Report

TIDYING = (
    *("normalize", "deduplicate", "merge_equal", "share_tables", "find_zero_points"),
    *("specialize_scalars", "reinplace", "fold_constants"),
)
"""Passes that count nodes and values rather than fusions, or have a line of their own."""


@dataclass(frozen=True)
class FamilyCount:
    """One rule, pass or operator."""

    name: str
    fused: int
    possible: int
    """What was fused and what was left."""


@dataclass(frozen=True)
class LeftGroup:
    """What was left in one family for one reason."""

    family: str
    reason: str
    fix: str
    where: str
    """The modules, equal ones of several layers together."""
    line: str
    """The model's line of the first, `modeling_qwen3.py:63 in forward: ...`."""
    count: int


def left_in(report: Report) -> tuple[Left, ...]:
    """What a report says is left; of a stage's report, whole matches that were refused."""
    if report.left or report.before:
        return report.left
    return tuple(Left(one.rule, one.place, one.reason) for one in report.misses if one.complete)


def families_of(report: Report) -> list[FamilyCount]:
    """The families of a report by name; passes that only tidy the graph are none of them."""
    left = left_in(report)
    names = sorted({*report.fired, *(one.family for one in left)} - {*TIDYING})
    counts = [(name, report.fired.get(name, 0)) for name in names]
    return [FamilyCount(name, fused, fused + of_family(left, name)) for name, fused in counts]


def of_family(left: Iterable[Left], name: str) -> int:
    """How many belong to a family."""
    return sum(one.family == name for one in left)


def left_groups(left: Iterable[Left]) -> list[LeftGroup]:
    """What was left, equal reasons together, the most frequent first."""
    found: dict[tuple[str, str, str], list[Left]] = {}
    for one in left:
        found.setdefault((one.family, one.reason, one.fix), []).append(one)
    groups = [
        LeftGroup(*key, modules(o.place.module for o in group), group[0].place.line, len(group))
        for key, group in found.items()
    ]
    return sorted(groups, key=lambda group: (-group.count, group.family))
