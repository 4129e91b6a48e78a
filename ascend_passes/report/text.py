"""A report for a person, on a terminal of any width.

The lines are values: label, text and a tone. Whoever prints them may colour the label by the tone.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ascend_passes.report.families import families_of, left_groups, left_in
from ascend_passes.report.layers import Alike, alike_layers, layers_of, ranges, seconds
from ascend_passes.report.merge import Merged, merged
from ascend_passes.report.value import Decision, Kernel, Report

LABEL = 10
"""Columns of a label."""
UNBROKEN = 10_000
"""Columns that no line reaches: for pipes and files."""
WIDE = 100
"""Columns from which layers get a table with estimates."""
MOST_STAGES = 3
"""Stages whose seconds are named."""


@dataclass(frozen=True)
class TextLine:
    """One line, or one that wraps."""

    label: str
    """What it is about; empty where that is said above."""
    text: str
    tone: str = ""
    """good, bad or nothing."""


def text_of_report(report: Report, width: int = UNBROKEN) -> str:
    """The whole report as plain text."""
    (one,) = merged([report])
    return "\n".join(row for line in full_lines(one, width) for row in wrapped(line, width))


def wrapped(line: TextLine, width: int) -> list[str]:
    """A line in as many rows as it takes, the text behind the column of labels."""
    indent = " " * (LABEL + 1)
    rows = textwrap.wrap(
        line.text,
        max(width, 3 * LABEL),
        initial_indent=f"{line.label:<{LABEL}} ",
        subsequent_indent=indent if len(line.label) <= LABEL else "    ",
        break_on_hyphens=False,
    )
    return rows or [line.label]


def full_lines(one: Merged, width: int) -> Iterator[TextLine]:
    """Everything that a person is told of a graph."""
    report = one.report
    if report.plan:
        yield TextLine("for", report.plan)
    yield from kernel_lines(report, width)
    yield from fused_lines(report)
    if report.kept:
        yield TextLine("kept", kept_text(report))
    yield from left_lines(report)
    yield from memory_lines(report)
    yield from (decision_line(choice) for choice in report.decisions)
    yield from (TextLine("note", note) for note in other_notes(report))
    yield from (TextLine("error", error, "bad") for error in report.errors)
    yield from time_lines(one)


def summary_lines(graphs: Sequence[Merged]) -> Iterator[TextLine]:
    """All graphs of a model on one screen: a line for each, then what they share."""
    for one in graphs:
        done, possible = shares(one.report)
        parts = [totals(one.report)] if one.report.before else []
        parts += [f"fused {done} of {possible}", time_text(one)]
        yield TextLine(graph_name(one), "; ".join(parts), "good")
    fused = {line.text: line for one in graphs for line in fused_lines(one.report, brief=True)}
    yield from list(fused.values())[-1:]
    yield from dict.fromkeys(line for one in graphs for line in left_lines(one.report))
    yield from dict.fromkeys(line for one in graphs[-1:] for line in memory_lines(one.report))
    errors = (error for one in graphs for error in one.report.errors)
    yield from (TextLine("error", error, "bad") for error in dict.fromkeys(errors))


def graph_name(one: Merged) -> str:
    """`graph 1`, or `graphs 2-3`."""
    return f"graph{'s' * (len(one.numbers) > 1)} {ranges(one.numbers)}"


def shares(report: Report) -> tuple[int, int]:
    """How many fusions were done, and how many were possible."""
    found = families_of(report)
    return sum(one.fused for one in found), sum(one.possible for one in found)


def kernel_lines(report: Report, width: int) -> Iterator[TextLine]:
    """Kernels before and after, in all and by layer."""
    if not report.before:
        return
    yield TextLine("kernels", totals(report), "good")
    groups = alike_layers(layers_of(report))
    for group in groups if len(groups) > 1 else ():
        yield TextLine("", layer_text(group, estimated=width >= WIDE))


def totals(report: Report) -> str:
    """`412 -> 58 kernels (-86 %), estimated 1.02 -> 0.21 ms on atlas-800-a2`."""
    counts = f"{len(report.before)} -> {len(report.after)}{fewer(report)}"
    return f"{counts}, estimated {estimates(report.before, report.after)} on {report.profile}"


def fewer(report: Report) -> str:
    """` (-86 %)`."""
    share = 1 - len(report.after) / len(report.before)
    return f" ({-share:+.0%})".replace("%", " %") if share else ""


def estimates(before: Iterable[Kernel], after: Iterable[Kernel]) -> str:
    """`1.02 -> 0.21 ms`."""
    return f"{1e3 * seconds(before):.3g} -> {1e3 * seconds(after):.3g} ms"


def layer_text(group: Alike, estimated: bool) -> str:
    """One line for layers of which the same became."""
    layer, several = group.layers[0], len(group.layers) > 1
    counts = f"{group.name}: {len(layer.before)} -> {len(layer.after)}{' each' * several}"
    if not estimated:
        return counts
    kinds = Counter(one.operator.rpartition(":")[2] for one in layer.after)
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{counts}, {estimates(layer.before, layer.after)}: {named or 'nothing'}"


def fused_lines(report: Report, brief: bool = False) -> Iterator[TextLine]:
    """How much of what was possible each family took; in brief without what nothing is left of."""
    found = [
        f"{one.title} {one.fused}" + f" of {one.possible}" * (not brief or one.possible > one.fused)
        for one in families_of(report)
    ]
    if found or report.before:
        yield TextLine("fused", ", ".join(found) or "nothing")


def kept_text(report: Report) -> str:
    """`48 vllm::moe_forward`."""
    return ", ".join(f"{count} {name}" for name, count in report.kept.items())


def left_lines(report: Report) -> Iterator[TextLine]:
    """What stays as the model wrote it, where, why, and what to do."""
    label = "left"
    for group in left_groups(left_in(report)):
        fix = f" (fix: {group.fix})" if group.fix else ""
        line = group.line.partition(" ")[0]
        where = " ".join(filter(None, (group.where, line and f"({line})"))) or "an unnamed place"
        yield TextLine(
            label, f"{group.count} {group.family} at {where}: {group.reason}{fix}", "bad"
        )
        label = ""


def memory_lines(report: Report) -> Iterator[TextLine]:
    """What is computed once, and what writes in place."""
    if report.once:
        size = sum(one.memory_bytes for one in report.once)
        spared = sum(len(one.covers) for one in report.once)
        text = f"{len(report.once)} values of {size:.0f} bytes in place of {spared} kernels a run"
        yield TextLine("once", text, "good")
    writes = Counter(one.operator for one in report.after if one.writes)
    if writes:
        named = ", ".join(f"{count} {name}" for name, count in sorted(writes.items()))
        yield TextLine("in place", f"{writes.total()} writes: {named}", "good")


def other_notes(report: Report) -> Iterator[str]:
    """The notes that no line of its own says better."""
    said = ("values of", "writes happen in place")
    yield from (n for n in report.notes if not (report.before and any(text in n for text in said)))


def decision_line(choice: Decision) -> TextLine:
    """A choice between plans, with the estimates behind it."""
    text = f"{choice.subject}: {choice.chosen}, {choice.reason}"
    if choice.before is None or choice.after is None:
        return TextLine("chosen", text)
    before, after = choice.before * 1e3, choice.after * 1e3
    return TextLine("chosen", f"{text} (estimated {before:.3f} ms before, {after:.3f} ms after)")


def time_lines(one: Merged) -> Iterator[TextLine]:
    """How long the passes took, and which stages most of it."""
    if not one.report.seconds:
        return
    slowest = Counter(one.report.seconds).most_common(MOST_STAGES)
    stages = ", ".join(f"{name} {taken:.3f}" for name, taken in slowest)
    yield TextLine("time", f"{time_text(one)} ({stages})")


def time_text(one: Merged) -> str:
    """`0.991 s cold, 0.348 s warm`."""
    warm = "" if one.warm is None else f", {one.warm:.3f} s warm"
    return f"{one.cold:.3f} s cold{warm}"
