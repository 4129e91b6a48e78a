"""Write the graph before and after as runnable Python, one pair of files for each compilation.

The folder may be one that others can write to as well, such as a shared temporary one, and other
ranks write to it at the same time: every file is made anew, and no link is followed.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from ascend_passes.options.plans import Plan
from ascend_passes.options.types import OptionError
from ascend_passes.options.value import Options
from ascend_passes.report.value import Report

HEADER = "import torch\nfrom torch import device, inf, nan\nimport ascend_passes.npu\n"
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def dumped(report: Report, plan: Plan, options: Options) -> Report:
    """The report, its graphs written to the folder of option `dump` where that is set.

    A dump that fails is an error in the report.

    Raises:
        OptionError: a dump that fails, under `strict`.
    """
    if not options.dump:
        return report
    try:
        write_dump(Path(options.dump), report, plan)
    except (OSError, ValueError) as error:
        sentence = f"dump failed and was left out: {type(error).__name__}: {error}"
        if options.strict:
            raise OptionError(f"option 'dump': {sentence}") from error
        return replace(report, errors=(*report.errors, sentence))
    return report


def write_dump(folder: Path, report: Report, plan: Plan) -> None:
    """`NUMBER[_rankR]_PLAN_LOW.before.py` and `.after.py`, numbered in the order of compilation.

    Raises:
        OSError: no folder, a link in its place, or one that cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with opened(folder) as handle:
        mine = re.compile(rf"\d+{rank()}_.*\.before\.py")
        for number in itertools.count(sum(map(bool, map(mine.fullmatch, os.listdir(handle))))):
            prefix = f"{number:03d}{rank()}_"
            if write_pair(handle, prefix, f"{plan.name.replace(' ', '_')}_{plan.low}", report):
                return


def write_pair(folder: int, prefix: str, name: str, report: Report) -> bool:
    """Write a pair of files unless some have this prefix; no other process can in the meantime."""
    claim = f".{prefix}"
    try:
        os.close(os.open(claim, NEW, dir_fd=folder))
    except FileExistsError:
        return False
    try:
        if any(other.startswith(prefix) for other in os.listdir(folder)):
            return False
        write_new(folder, f"{prefix}{name}.before.py", report.graph_before)
        write_new(folder, f"{prefix}{name}.after.py", report.graph_after)
        return True
    finally:
        os.unlink(claim, dir_fd=folder)


def rank() -> str:
    """`_rank3` where there are several ranks, whose graphs of one number belong together."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return ""
    return f"_rank{dist.get_rank()}"


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of a folder, which stays that folder whatever its name comes to mean."""
    handle = os.open(folder, FOLDER)
    try:
        yield handle
    finally:
        os.close(handle)


def write_new(folder: int, name: str, code: str) -> None:
    """Write a file of a name that nothing has, not even a link."""
    handle = os.open(name, NEW, mode=0o644, dir_fd=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(HEADER + code)
