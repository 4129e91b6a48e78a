"""What a captured graph does on the stand-in: the recorded calls run again at every replay.

The stand-in (`standin.c`) reports captures, task groups, executions and events here. A captured
graph is a list of steps; executing it runs them in order and stops at a wait for an event that the
host has yet to record, as the attention's parameter update of npugraph_ex needs.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

Step = Callable[[], object]


class Observed(IntEnum):
    """The reports of `standin.c`, in its order."""

    CAPTURE_BEGIN = 0
    CAPTURE_END = 1
    GROUP_BEGIN = 2
    GROUP_END = 3
    UPDATE_BEGIN = 4
    UPDATE_END = 5
    EXECUTE = 6
    DESTROY = 7
    EVENT_WAIT = 8
    EVENT_RECORD = 9
    EVENT_RESET = 10


@dataclass
class Group:
    """A task group: steps whose parameters the host may replace between replays."""

    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Wait:
    """A captured wait for an event."""

    event: int


@dataclass(frozen=True)
class Reset:
    """A captured reset of an event."""

    event: int


@dataclass
class Recorder:
    """Every captured graph of the process."""

    graphs: dict[int, list[Step | Group | Wait | Reset]] = field(default_factory=dict)
    groups: dict[int, Group] = field(default_factory=dict)
    capturing: int = 0
    group: Group | None = None
    updating: bool = False
    recorded: set[int] = field(default_factory=set)
    """Events that have been recorded and not reset since."""
    paused: tuple[int, Iterator[int]] | None = None
    """The event that an execution waits for, and the rest of that execution."""
    captures: int = 0
    """Captures that hold work; npugraph_ex makes its memory pool with an empty one."""
    replays: int = 0
    updates: int = 0

    @property
    def recording(self) -> bool:
        """Whether operators called now belong to a graph and not to the host's own stream."""
        return bool(self.capturing) or self.updating

    def record(self, step: Step) -> None:
        """Add an operator's call to the graph or the task group that is open."""
        if self.group is not None:
            self.group.steps.append(step)
        else:
            self.graphs[self.capturing].append(step)

    def run(self, graph: int) -> Iterator[int]:
        """Run a graph's steps; yields the event it has to wait for."""
        for step in self.graphs[graph]:
            if isinstance(step, Wait):
                while step.event not in self.recorded:
                    yield step.event
            elif isinstance(step, Reset):
                self.recorded.discard(step.event)
            elif isinstance(step, Group):
                for inner in step.steps:
                    inner()
            else:
                step()

    def proceed(self, execution: Iterator[int]) -> None:
        """Run until the end or the next wait."""
        event = next(execution, None)
        self.paused = None if event is None else (event, execution)

    def observe(self, what: int, subject: int) -> None:
        """One report of the stand-in."""
        match Observed(what):
            case Observed.CAPTURE_BEGIN:
                self.capturing, self.graphs[subject] = subject, []
            case Observed.CAPTURE_END:
                self.captures += bool(self.graphs[self.capturing])
                self.capturing = 0
            case Observed.GROUP_BEGIN:
                self.group = Group()
                self.graphs[self.capturing].append(self.group)
            case Observed.GROUP_END:
                assert self.group is not None
                self.groups[subject], self.group = self.group, None
            case Observed.UPDATE_BEGIN:
                self.group, self.updating = self.groups[subject], True
                self.group.steps.clear()
                self.updates += 1
            case Observed.UPDATE_END:
                self.group, self.updating = None, False
            case Observed.EXECUTE:
                assert self.paused is None, "a graph runs while another waits for an event"
                self.replays += 1
                self.proceed(self.run(subject))
            case Observed.DESTROY:
                self.graphs.pop(subject, None)
            case Observed.EVENT_WAIT if self.capturing:
                self.graphs[self.capturing].append(Wait(subject))
            case Observed.EVENT_RESET if self.capturing:
                self.graphs[self.capturing].append(Reset(subject))
            case Observed.EVENT_RECORD:
                self.event_recorded(subject)
            case Observed.EVENT_RESET:
                self.recorded.discard(subject)

    def event_recorded(self, event: int) -> None:
        """An event was recorded: by the graph under capture, or by the host for a waiting graph."""
        if self.capturing:
            self.graphs[self.capturing].append(lambda: self.recorded.add(event))
            return
        self.recorded.add(event)
        if self.paused is not None and self.paused[0] == event:
            self.proceed(self.paused[1])


RECORDER = Recorder()
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_size_t)(RECORDER.observe)
"""Kept for the life of the process: the stand-in calls it."""


def install() -> Recorder:
    """Have the stand-in report to the process's recorder, and return that."""
    library = ctypes.CDLL(os.environ["STANDIN_LIBRARY"])
    library.standin_observe(_CALLBACK)
    return RECORDER
