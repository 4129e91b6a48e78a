"""What ranks told each other while they compiled a graph, so that one can compile it again alone.

A rank whose weights or numbers change compiles by itself: it gets the answers of before as long as
it tells what it told before. So its graph has the collectives that the other ranks wait for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


class DepartureError(Exception):
    """This rank tells something else than before; the others would have to be asked."""


@dataclass(frozen=True)
class Line:
    """One exchange."""

    groups: tuple[str, ...]
    topic: str
    told: Mapping[str, Any]
    answers: Mapping[str, Mapping[int, Any]]


@dataclass
class Script:
    """The exchanges of one compilation, in their order."""

    lines: list[Line] = field(default_factory=list)


_recording: ContextVar[Script | None] = ContextVar("recording", default=None)
_replaying: ContextVar[Iterator[Line] | None] = ContextVar("replaying", default=None)


@contextmanager
def recording(script: Script) -> Iterator[None]:
    """Inside, exchanges are added to the script."""
    token = _recording.set(script)
    try:
        yield
    finally:
        _recording.reset(token)


@contextmanager
def replaying(script: Script) -> Iterator[None]:
    """Inside, exchanges are answered from the script, the first one first, and nobody is asked."""
    token = _replaying.set(iter(tuple(script.lines)))
    try:
        yield
    finally:
        _replaying.reset(token)


def answered(
    groups: tuple[str, ...], topic: str, told: Mapping[str, Any]
) -> dict[str, dict[int, Any]] | None:
    """The answers of before, group -> rank -> what it told; None where the ranks are to be asked.

    Raises:
        DepartureError: the script has another exchange here.
    """
    lines = _replaying.get()
    if lines is None:
        return None
    line = next(lines, None)
    if line is None or (line.groups, line.topic, line.told) != (groups, topic, told):
        raise DepartureError(f"{topic} of groups {', '.join(groups)} is not as it was agreed")
    return {group: dict(answers) for group, answers in line.answers.items()}


def remember(
    groups: tuple[str, ...],
    topic: str,
    told: Mapping[str, Any],
    answers: Mapping[str, Mapping[int, Any]],
) -> None:
    """Add an exchange that took place to the script that is being recorded."""
    script = _recording.get()
    if script is not None:
        script.lines.append(Line(groups, topic, dict(told), dict(answers)))
