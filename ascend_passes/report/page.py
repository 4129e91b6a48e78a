"""Reports as one page of HTML that needs no network: data, style and script lie in it.

The page holds each text once and numbers refer to it, so that 64 layers stay under 3 MB.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from ascend_passes.report.families import families_of, left_groups, left_in
from ascend_passes.report.layers import alike_layers, layers_of
from ascend_passes.report.merge import Merged, merged
from ascend_passes.report.text import decision_line, other_notes, time_text, totals
from ascend_passes.report.value import Kernel, Report

NANO = 1e9
"""Seconds are whole nanoseconds in the page."""


class Texts:
    """Texts that are held once, by number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {"": 0}

    def number(self, text: str) -> int:
        """The number of a text."""
        return self.numbers.setdefault(text, len(self.numbers))


def page_of(reports: Mapping[str, Report], title: str) -> str:
    """The page of some reports; equal graphs are one, under all their names.

    Args:
        reports: name -> report.
        title: of the page, such as the model's name.
    """
    names = list(reports)
    graphs = [
        graph_data(", ".join(names[number - 1] for number in one.numbers), one)
        for one in merged(reports.values())
    ]
    data = json.dumps({"title": title, "graphs": graphs}, separators=(",", ":"))
    parts = {name: asset(f"page.{name}") for name in ("html", "css", "js")}
    page = parts["html"].replace("{{title}}", html.escape(title))
    for name, text in (("style", parts["css"]), ("script", parts["js"]), ("data", quoted(data))):
        page = page.replace("{{" + name + "}}", text, 1)
    return page


def asset(name: str) -> str:
    """A file that lies beside this one."""
    return files("ascend_passes.report").joinpath(name).read_text(encoding="utf-8")


def quoted(data: str) -> str:
    """JSON that no browser takes for the end of the script that it lies in."""
    return data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def graph_data(name: str, one: Merged) -> dict[str, Any]:
    """What the page's script draws of a graph; `page.js` reads these keys."""
    report, texts = one.report, Texts()
    made: dict[str, Any] = {
        "name": name,
        "plan": report.plan,
        "totals": totals(report) if report.before else "kernels were not counted",
        "time": time_text(one),
        "stages": sorted(report.seconds.items(), key=lambda item: -item[1]),
        "families": [[one.title, one.fused, one.possible] for one in families_of(report)],
        "left": [
            [one.count, one.family, one.where, one.line, one.reason, one.fix]
            for one in left_groups(left_in(report))
        ],
        "looked": looked_at(report),
        "chosen": [decision_line(choice).text for choice in report.decisions],
        "notes": list(other_notes(report)),
        "errors": list(report.errors),
        "once": [
            [kept.name, kept.result, kept.place.module, kept.memory_bytes, len(kept.covers)]
            for kept in report.once
        ],
        "captures": [[event.kind, event.size, event.count] for event in report.captures],
        **kernel_data(report, texts),
    }
    made["texts"] = list(texts.numbers)
    return made


def looked_at(report: Report) -> list[list[Any]]:
    """Rule, reason and count of every place that a rule or pass looked at and left."""
    found: dict[tuple[str, str], int] = {}
    for miss in report.misses:
        found[miss.rule, miss.reason] = found.get((miss.rule, miss.reason), 0) + 1
    return [[rule, reason, count] for (rule, reason), count in sorted(found.items())]


def kernel_data(report: Report, texts: Texts) -> dict[str, Any]:
    """Both graphs' kernels, and the layers that they lie in."""
    after = {kernel.name: number for number, kernel in enumerate(report.after)}
    taken = {name: after[one.name] for one in report.after for name in one.covers}
    once = {name for kept in report.once for name in kept.covers}
    before = {kernel.name: number for number, kernel in enumerate(report.before)}
    groups = [
        [group.name, [layer.path for layer in group.layers]]
        for group in alike_layers(layers_of(report))
    ]
    goes = [-2 if one.name in once else taken.get(one.name, -1) for one in report.before]
    return {
        "before": [
            [*kernel_row(kernel, before, texts), target]
            for kernel, target in zip(report.before, goes, strict=True)
        ],
        "after": [
            [*kernel_row(kernel, after, texts), int(kernel.writes)] for kernel in report.after
        ],
        "layers": [
            [layer.path, *([*numbers_in(layer.before, before)], [*numbers_in(layer.after, after)])]
            for layer in layers_of(report)
        ],
        "groups": groups,
    }


def numbers_in(kernels: Iterable[Kernel], numbers: Mapping[str, int]) -> Iterable[int]:
    """The kernels' numbers."""
    return (numbers[kernel.name] for kernel in kernels)


def kernel_row(kernel: Kernel, numbers: Mapping[str, int], texts: Texts) -> list[Any]:
    """A kernel as a row; `page.js` names the columns."""
    words = (kernel.operator, kernel.result, kernel.place.module, kernel.place.line)
    return [
        *(texts.number(word) for word in (*words, kernel.author, kernel.collective)),
        round(kernel.seconds * NANO),
        round(kernel.wire_bytes),
        kernel.ranks,
        [numbers[one] for one in kernel.inputs if one in numbers],
    ]
