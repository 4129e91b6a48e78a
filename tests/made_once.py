"""Folders that take long to fill, made by whichever process wants them first; the others wait."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from tests.shared_objects import command


def made_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """`target`, which appears whole or not at all: `fill` writes into a folder beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            fill(partial)
            partial.rename(target)
    return target


def install_wheels(target: Path, *requirements: str) -> None:
    """Wheels without their dependencies, for a PYTHONPATH.

    Raises:
        BuildError: pip failed; the text has its output.
    """
    options = ("--quiet", "--no-deps", "--disable-pip-version-check", "--target")
    command(sys.executable, "-m", "pip", "install", *options, target, *requirements)
