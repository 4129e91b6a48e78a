"""A limit on the seconds that a rule's code may take: nothing promises that it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ascend_passes.options.errors import RuleError

LOAD_SECONDS = 30.0
"""For the rule files of a folder to be loaded."""
GRACE_SECONDS = 2.0
"""What code that catches everything gets until the process ends."""


class Expired(BaseException):
    """The time is up; no `except Exception` of a rule or of the engine takes it for theirs."""


@contextmanager
def limited(seconds: float, what: str) -> Iterator[None]:
    """Inside, Python code is interrupted after a time; without effect off the main thread.

    Code that catches even this ends the process with status 2. One operation in C that does not
    come back, such as an endless iterator's sum, is not interrupted.

    Raises:
        RuleError: the time is up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    message = f"{what} did not end within {seconds:g} s"
    expired = []

    def expire(number: int, frame: FrameType | None) -> None:
        expired.append(number)
        if len(expired) > 1:
            print(f"error: {message}, and caught the interruption", file=sys.stderr, flush=True)
            os._exit(2)
        raise Expired

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, GRACE_SECONDS)
    try:
        yield
    except Expired:
        raise RuleError(f"{message}.") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
