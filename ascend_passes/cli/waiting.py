"""Says on a terminal that a command is at work, until it says something itself.

Loading torch and the rules alone takes seconds. This needs neither, so that it can start at once.
"""

from __future__ import annotations

import sys
import threading
import time

QUIET_SECONDS = 2.0
"""Until something is said."""
STEP_SECONDS = 0.5
CLEAR = "\r\x1b[K"


class Waiting:
    """A line on stderr that counts seconds; `settled` takes it away for good."""

    def __init__(self, title: str) -> None:
        self.title, self.start = title, time.monotonic()
        self.ended = threading.Event()
        self.shown = False
        self.thread = threading.Thread(target=self.count, daemon=True)
        if sys.stderr.isatty():
            self.thread.start()

    def count(self) -> None:
        """Say how long it has been, again and again."""
        pause = QUIET_SECONDS
        while not self.ended.wait(pause):
            passed = time.monotonic() - self.start
            self.shown, pause = True, STEP_SECONDS
            sys.stderr.write(f"{CLEAR}{self.title}: {passed:.0f} s")
            sys.stderr.flush()

    def end(self) -> None:
        """Take the line away."""
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()
        if self.shown:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()
            self.shown = False


_now: list[Waiting] = []


def waiting(title: str) -> None:
    """Begin; what was begun before ends."""
    settled()
    _now.append(Waiting(title))


def settled() -> None:
    """The command has something to say, or is done."""
    while _now:
        _now.pop().end()
