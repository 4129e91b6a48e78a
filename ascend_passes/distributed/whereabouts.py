"""What this process is doing, in words for the ranks that wait for it.

Nothing is recorded as the model runs: all of it is read when somebody asks, from the stacks of the
threads, Dynamo's record of compilations and the process groups' counters.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, cast

import torch
import torch._dynamo.utils
from torch.distributed import distributed_c10d

PACKAGES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
COMPILERS = (
    ("torch/_dynamo/convert_frame.py", "_compile"),
    ("ascend_passes/compile/variant.py", "compile"),
)
"""Ends of file names, and functions, that are on the stack of a thread that compiles."""
LONGEST = 300
"""Characters that are told of an error."""
CONTEXT = "Developer debug context: "
"""What stands in front of the error itself in Dynamo's account of an exception while it traced."""


@dataclass(frozen=True)
class Failure:
    """A function that Dynamo could not compile."""

    function: str
    why: str
    number: str
    """Tells this failure from the others of its process."""


@dataclass(frozen=True)
class Whereabouts:
    """Where a process is."""

    place: str
    """The line of the main thread, outside of torch and this package."""
    compiling: tuple[str, ...] = ()
    """The functions that are being compiled, the innermost last."""
    compiled: tuple[str, ...] = ()
    """The functions that were compiled; Dynamo remembers the last 64."""
    failures: tuple[Failure, ...] = ()
    """Since the time that was asked for."""
    entered: dict[str, list[int]] = field(default_factory=dict)
    """Ranks, `0,1` -> the collectives entered so far in each group of them, in order of making."""


def whereabouts(since: float = 0.0) -> Whereabouts:
    """Where this process is; failures since a time of `time.time()`."""
    records = list(torch._dynamo.utils.get_compilation_metrics())
    good = [function_text(r.co_name, r.co_filename, r.co_firstlineno) for r in records if done(r)]
    return Whereabouts(
        main_line(),
        tuple(compiled_functions()),
        tuple(dict.fromkeys(good)),
        tuple(failure(r) for r in records if r.fail_type and (r.end_time_us or 0) > since * 1e6),
        entered(),
    )


def done(record: Any) -> bool:
    """Whether a record is of a compilation of a function that went well."""
    return bool(record.co_name and not record.fail_type)


def failure(record: Any) -> Failure:
    """Dynamo's record of a compilation that failed, in short."""
    function = function_text(record.co_name, record.co_filename, record.co_firstlineno)
    reason = str(record.fail_reason or record.fail_type)
    told = reason.partition(CONTEXT)[2] or reason
    first = next((line.strip() for line in told.splitlines() if line.strip()), "")
    file, line = record.fail_user_frame_filename, record.fail_user_frame_lineno
    where = f" at {Path(file).name}:{line}" if file else ""
    return Failure(
        function, f"{first[:LONGEST]}{where}", f"{record.compile_id} {record.end_time_us}"
    )


def function_text(name: str | None, file: str | None, line: int | None) -> str:
    """A function as all ranks name it, whichever folder their files are in."""
    return f"{name} ({Path(file or '').name}:{line})"


def compiled_functions() -> Iterator[str]:
    """The functions on the threads' stacks that Dynamo or this package compiles.

    Those of other threads are not named: their variables are not to be read while they run.
    """
    own = threading.get_ident()
    for thread, top in sys._current_frames().items():
        for frame in reversed(list(outwards(top))):
            if any(called_in(frame, *one) for one in COMPILERS):
                code = frame.f_locals.get("code") if thread == own else None
                yield code_text(code) if isinstance(code, CodeType) else "a graph"


def called_in(frame: FrameType, file: str, function: str) -> bool:
    """Whether a frame is of a function in a file of this end."""
    return frame.f_code.co_name == function and frame.f_code.co_filename.endswith(file)


def code_text(code: CodeType) -> str:
    """`function_text` for a code object."""
    return function_text(code.co_name, code.co_filename, code.co_firstlineno)


def outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def main_line() -> str:
    """The main thread's line outside of torch and this package: `file.py:12 in forward`."""
    top = sys._current_frames().get(threading.main_thread().ident or 0)
    for frame in outwards(top):
        file = frame.f_code.co_filename
        if not file.startswith((*PACKAGES, "<")):
            return f"{Path(file).name}:{frame.f_lineno} in {frame.f_code.co_name}"
    return "a place without a line"


def entered() -> dict[str, list[int]]:
    """For each group of this process how many collectives it has entered, by its ranks."""
    found: dict[str, list[int]] = defaultdict(list)
    for group in list(distributed_c10d._world.pg_map):
        try:
            ranks = sorted(distributed_c10d.get_process_group_ranks(group))
            count = cast(Any, group)._get_sequence_number_for_group()
        except (LookupError, RuntimeError, ValueError):  # a backend that does not count
            continue
        found[",".join(map(str, ranks))].append(int(count))
    return dict(found)


def now() -> float:
    """The clock of `whereabouts`."""
    return time.time()
