"""What capture did with a compiled graph, apart from the graphs and their memory."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field, replace

from ascend_passes.report.fixes import fix_for
from ascend_passes.report.value import CaptureEvent, Left, Miss, Place, Report

logger = logging.getLogger("ascend_passes")
MOST_EVENTS = 512
"""Events that are remembered; older ones are forgotten."""


@dataclass
class Counters:
    """What a runner did."""

    warm_ups: int = 0
    captures: int = 0
    recaptures: int = 0
    """Captures that replaced one because an input used in place had moved."""
    replays: int = 0
    """Graph launches; a replayed step is one."""
    uncaptured: int = 0
    bytes_in: int = 0
    """Copied from the caller's tensors into fixed memory; weights and caches never are."""
    bytes_out: int = 0
    """Copied from the graph's memory into tensors of the caller's own."""


@dataclass
class Log:
    """Counts and refusals; it goes on while the compiled graph runs and holds no device memory."""

    counters: Counters = field(default_factory=Counters)
    misses: dict[Miss, None] = field(default_factory=dict)
    events: deque[CaptureEvent] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))

    def happened(self, kind: str, size: int) -> None:
        """Note what was done for a size of so many rows; `CaptureEvent` has the kinds."""
        last = self.events[-1] if self.events else None
        if last is not None and last.kind == kind and last.size == size:
            self.events[-1] = replace(last, count=last.count + 1)
        else:
            self.events.append(CaptureEvent(kind, size))

    def note(self, reason: str, operator: str = "", line: str = "") -> None:
        """Say once what runs uncaptured and why."""
        miss = Miss("capture", operator, Place(line=line), f"runs uncaptured: {reason}")
        if miss not in self.misses:
            self.misses[miss] = None
            logger.warning(
                "%s %s", operator or "step", f"{miss.reason}" + (line and f", at {line}")
            )

    def report(self) -> Report:
        """How many graphs were captured, and what runs uncaptured and why."""
        made = self.counters
        calls = made.warm_ups + made.replays + made.uncaptured
        again = f" ({made.recaptures} anew, since an input had moved)" if made.recaptures else ""
        notes = (
            f"captured graphs: {made.captures}{again}, of {calls} calls {made.replays} replayed "
            f"one and {made.uncaptured} ran uncaptured",
        )
        fired = {"capture": made.captures} if made.captures else {}
        left = (Left(one.rule, one.place, one.reason, fix_for(one.reason)) for one in self.misses)
        return Report(
            fired=fired,
            misses=tuple(self.misses),
            notes=notes if calls else (),
            left=tuple(left),
            captures=tuple(self.events),
        )
