"""Imports the kernels' files where torch is not: their package has no code of its own here."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

PACKAGES = ("ascend_passes", "ascend_passes.npu", "ascend_passes.npu.kernels")


def kernels_in(root: Path, file: str) -> Any:
    """A file of `ascend_passes/npu/kernels`, imported from its own source."""
    for name in PACKAGES:
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(root / name.replace(".", "/"))]
            sys.modules[name] = package
    return importlib.import_module(f"{PACKAGES[-1]}.{file}")
