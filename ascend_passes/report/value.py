"""What the passes did to a graph, as a value; printing it is somebody else's job."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "ascend_passes.report"
VERSION = 1
"""Of the schema: another one where a field changes its meaning or goes, not where one comes."""


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
    """The rule or pass, or the family of recognitions, one of which it could have become."""
    node: str
    """Of the graph at that time."""
    place: Place
    """Where the model wrote it."""
    reason: str
    """A sentence, with the limit and its source where there is one."""
    depth: int = 0
    """Nodes of the pattern that matched before it stopped; a full match that was refused has
    all."""
    complete: bool = False
    """True where the whole pattern matched and a condition refused it."""


@dataclass(frozen=True)
class Decision:
    """A choice between plans, with the estimates that it rests on."""

    subject: str
    """The pass that chose."""
    chosen: str
    """What it chose."""
    reason: str
    """Why."""
    before: float | None = None
    """Estimated seconds of the graph as it was."""
    after: float | None = None
    """Estimated seconds of the graph as chosen."""
    gain_from: int | None = None
    """Tokens from which another choice is estimated to win, where the plan's range has such."""


@dataclass(frozen=True)
class Left:
    """What stays spelled out though an operator exists for it, or stays slower than it could be."""

    family: str
    """The rule or pass that would have taken it, as `Report.fired` names it, or the family of
    recognitions, as `Report.families` does."""
    place: Place
    """Where the model wrote it."""
    reason: str
    """Why it stays."""
    fix: str = ""
    """What the user can do about it; empty where nothing is known."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operator call that a device runs; views and what costs nothing are no kernels."""

    name: str
    """The node's, unique in its graph."""
    operator: str
    """`namespace::name`."""
    inputs: tuple[str, ...]
    """Kernels and values kept from earlier runs whose results it reads, through views."""
    result: str
    """Element type and shape of the first result, `bfloat16[1, s0, 64]`."""
    place: Place
    """Where the model wrote what it stands for."""
    author: str = ""
    """The rule or pass that put it in, with its spelling; empty for what the model wrote."""
    seconds: float = 0.0
    """Estimated on the report's profile, at the sizes of the trace."""
    memory_bytes: float = 0.0
    """Read and written in device memory, as the cost model counts it."""
    wire_bytes: float = 0.0
    """Sent by each rank."""
    collective: str = ""
    """all_reduce, reduce_scatter or all_gather."""
    ranks: int = 1
    """Ranks of the collective's group."""
    writes: bool = False
    """Whether it writes into memory that it was given."""
    covers: tuple[str, ...] = ()
    """In the graph after: kernels of the graph before that it stands for."""


@dataclass(frozen=True)
class Once:
    """A value that is computed once, from parameters alone, and kept for all runs."""

    name: str
    """Of the graph's input that holds it."""
    result: str
    """Element type and shape."""
    place: Place
    """Where the model computes it."""
    memory_bytes: float = 0.0
    """Kept for all runs."""
    covers: tuple[str, ...] = ()
    """Kernels of the graph before that are no longer run for it."""


@dataclass(frozen=True)
class CaptureEvent:
    """Equal things that capture did one after the other."""

    kind: str
    """warm_up, capture, recapture, replay or uncaptured."""
    size: int
    """Rows of the captured size; 0 where none took the call."""
    count: int = 1
    """How often in a row."""


@dataclass(frozen=True)
class Report:
    """One compilation, or one stage of it; reports of stages add up with `+`."""

    fired: Mapping[str, int] = field(default_factory=dict)
    """Rule or pass name -> how often it acted."""
    misses: tuple[Miss, ...] = ()
    """All that rules and passes looked at and left, candidates or not; `left` has the former."""
    decisions: tuple[Decision, ...] = ()
    """What was chosen where there was a choice, and why."""
    notes: tuple[str, ...] = ()
    """Sentences about the whole graph: what is prefetched where, what runs uncaptured."""
    errors: tuple[str, ...] = ()
    """Passes that failed; the graph is as if they had not been asked."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds it took."""
    graph_before: str = ""
    """The traced graph as Python; empty in old reports of a process."""
    graph_after: str = ""
    """The graph that is run, as Python."""
    spellings: Mapping[str, int] = field(default_factory=dict)
    """`rule.spelling` or `rule[choices]` -> how often it fired, for rules that have several."""
    families: Mapping[str, str] = field(default_factory=dict)
    """Recognition in `fired` -> its family, whose name stands in `left` and in `misses`."""
    left: tuple[Left, ...] = ()
    """What stays spelled out, with the reason and the fix."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """Operator of somebody else's that does what several of the NPU's would -> how many stay."""
    before: tuple[Kernel, ...] = ()
    """The kernels of the graph as it was traced."""
    after: tuple[Kernel, ...] = ()
    """The kernels of the graph that is run."""
    once: tuple[Once, ...] = ()
    """What is computed once instead of in each run."""
    captures: tuple[CaptureEvent, ...] = ()
    """What capture did since, in order."""
    profile: str = ""
    """The device profile behind all estimates."""
    plan: str = ""
    """The token counts that the graph is for."""

    def __add__(self, other: Report) -> Report:
        return Report(
            fired=dict(Counter(self.fired) + Counter(other.fired)),
            kept=dict(Counter(self.kept) + Counter(other.kept)),
            misses=self.misses + other.misses,
            decisions=self.decisions + other.decisions,
            notes=self.notes + other.notes,
            errors=self.errors + other.errors,
            seconds=dict(Counter(self.seconds) + Counter(other.seconds)),
            graph_before=self.graph_before or other.graph_before,
            graph_after=other.graph_after or self.graph_after,
            spellings=dict(Counter(self.spellings) + Counter(other.spellings)),
            families={**self.families, **other.families},
            left=self.left + other.left,
            before=self.before + other.before,
            after=self.after + other.after,
            once=self.once + other.once,
            captures=self.captures + other.captures,
            profile=self.profile or other.profile,
            plan=self.plan or other.plan,
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists, by the schema in `docs/report.md`."""
        return {"schema": SCHEMA, "version": VERSION, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """The report for machines, by the schema in `docs/report.md`."""
        return json.dumps(self.to_dict(), indent=1)

    def to_html(self, title: str = "ascend_passes") -> str:
        """One page that needs no network: layers, graphs before and after, costs, capture."""
        from ascend_passes.report.page import page_of  # which nobody needs who asks for no page

        return page_of({"graph": self}, title)

    def log_line(self) -> str:
        """The report in one line, for logs."""
        from ascend_passes.report.log_line import line_of_report

        return line_of_report(self)

    def __str__(self) -> str:
        from ascend_passes.report.text import text_of_report

        return text_of_report(self)
