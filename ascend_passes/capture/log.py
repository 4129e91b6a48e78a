"""What capture did with a compiled graph, apart from the graphs and their memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from ascend_passes.report.value import Miss, Place, Report

logger = logging.getLogger("ascend_passes")


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
        return Report(fired=fired, misses=tuple(self.misses), notes=notes if calls else ())
