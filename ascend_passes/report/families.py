"""What was fused, of what could have been, and what was left: by family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
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
    """One rule, pass or recognition; a family of recognitions where one of it is left."""

    name: str
    fused: int
    possible: int
    """What was fused and what was left."""
    became: tuple[tuple[str, int], ...] = ()
    """Of a family: each recognition that fired, and how often."""

    @property
    def title(self) -> str:
        """`swiglu`, or `gated (2 swiglu)`, which names what option `expect` counts."""
        parts = ", ".join(f"{count} {name}" for name, count in self.became)
        return f"{self.name} ({parts})" if parts else self.name


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


def fusions(report: Report) -> dict[str, int]:
    """How often each rule, recognition and pass fired that does more than tidy the graph."""
    return {name: count for name, count in report.fired.items() if name not in TIDYING}


def families_of(report: Report) -> list[FamilyCount]:
    """What fired and what was left, by name. Nobody knows which recognition of a family one that is
    left would have become, so those of such a family are counted together."""
    left = Counter(one.family for one in left_in(report))
    counts: dict[str, dict[str, int]] = {name: {} for name in left if name not in TIDYING}
    for name, count in fusions(report).items():
        family = report.families.get(name, name)
        counts.setdefault(family if family in left else name, {})[name] = count
    return [family_count(name, counts[name], left[name]) for name in sorted(counts)]


def family_count(name: str, fired: Mapping[str, int], left: int) -> FamilyCount:
    """What fired under a name, and how many are left."""
    fused = sum(fired.values())
    became = () if set(fired) <= {name} else tuple(sorted(fired.items()))
    return FamilyCount(name, fused, fused + left, became)


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
