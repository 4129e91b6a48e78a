"""What the passes did to a graph, as a value; printing it is somebody else's job."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where in the user's model a node comes from."""

    module: str = ""
    """The module's path, such as `model.layers.0.input_layernorm`."""
    line: str = ""
    """File, line number and source text of the model's line."""

    def __str__(self) -> str:
        return " at ".join(filter(None, (self.module, self.line))) or "an unnamed place"


@dataclass(frozen=True)
class Miss:
    """A refusal: a rule or pass had a candidate and left it, with the reason."""

    rule: str
    node: str
    place: Place
    reason: str
    depth: int = 0
    """Nodes of the pattern that matched before it stopped; a full match that was refused has
    all."""
    complete: bool = False
    """True where the whole pattern matched and a condition refused it."""


@dataclass(frozen=True)
class Decision:
    """A choice between plans, with the estimates that it rests on."""

    subject: str
    chosen: str
    reason: str
    before: float | None = None
    """Estimated seconds of the graph as it was."""
    after: float | None = None
    """Estimated seconds of the graph as chosen."""
    gain_from: int | None = None
    """Tokens from which another choice is estimated to win, where the plan's range has such."""


@dataclass(frozen=True)
class Report:
    """One compilation, or one stage of it; reports of stages add up with `+`."""

    fired: Mapping[str, int] = field(default_factory=dict)
    """Rule or pass name -> how often it acted."""
    misses: tuple[Miss, ...] = ()
    decisions: tuple[Decision, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences about the whole graph: what is prefetched where, what runs uncaptured."""
    errors: tuple[str, ...] = ()
    """Passes that failed; the graph is as if they had not been asked."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds it took."""
    graph_before: str = ""
    graph_after: str = ""
    spellings: Mapping[str, int] = field(default_factory=dict)
    """`rule.spelling` or `rule[choices]` -> how often it fired, for rules that have several."""

    def __add__(self, other: Report) -> Report:
        return Report(
            fired=dict(Counter(self.fired) + Counter(other.fired)),
            misses=self.misses + other.misses,
            decisions=self.decisions + other.decisions,
            notes=self.notes + other.notes,
            errors=self.errors + other.errors,
            seconds=dict(Counter(self.seconds) + Counter(other.seconds)),
            graph_before=self.graph_before or other.graph_before,
            graph_after=other.graph_after or self.graph_after,
            spellings=dict(Counter(self.spellings) + Counter(other.spellings)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The report for machines."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        return "\n".join(render(self))


def group(misses: tuple[Miss, ...]) -> dict[tuple[str, str], list[Miss]]:
    """Misses by rule and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[Miss]] = {}
    for miss in misses:
        groups.setdefault((miss.rule, miss.reason), []).append(miss)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]))))


def render(report: Report) -> list[str]:
    """The lines a person reads: per rule what fired, and each group of misses with an example."""
    groups = group(report.misses)
    names = sorted({*report.fired, *(rule for rule, _ in groups)})
    width = max((len(name) for name in names), default=0)
    lines: list[str] = []
    for name in names:
        missed = {reason: found for (rule, reason), found in groups.items() if rule == name}
        fired, total = report.fired.get(name, 0), sum(len(found) for found in missed.values())
        lines.append(f"{name:<{width}}  fired {fired}" + (f" of {fired + total}" if total else ""))
        for reason, found in missed.items():
            lines.append(f"    {len(found)} stopped at {found[0].place}: {reason}")
    for choice in report.decisions:
        estimate = ""
        if choice.before is not None and choice.after is not None:
            before, after = choice.before * 1e3, choice.after * 1e3
            estimate = f" (estimated {before:.3f} ms before, {after:.3f} ms after)"
        lines.append(f"{choice.subject}: {choice.chosen}, {choice.reason}{estimate}")
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"error: {error}" for error in report.errors]
    if report.seconds:
        elapsed = sum(report.seconds.values())
        stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in report.seconds.items())
        lines.append(f"{elapsed:.3f} s ({stages})")
    return lines
