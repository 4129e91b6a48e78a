"""Graph-compiler passes for dense language models on Ascend NPUs.

`torch.compile(model, backend="ascend_dense")` needs no import; the names below serve those who want
more. Each is loaded when it is first asked for, so that an import alone costs nothing.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ascend_passes import npu
    from ascend_passes.backend import ascend_dense, explain, optimize, reports, reset
    from ascend_passes.capture.decode import Decoder, decode_loop, waits_for_host
    from ascend_passes.compile.compiled_graph import refresh
    from ascend_passes.engine.rule import Rule
    from ascend_passes.options.value import OptionError, Options
    from ascend_passes.report.value import Report

__version__ = "0.1.0"
"""The one place of the version: the distribution's metadata is read from here."""
__all__ = [
    "Decoder",
    "OptionError",
    "Options",
    "Report",
    "Rule",
    "__version__",
    "ascend_dense",
    "decode_loop",
    "explain",
    "npu",
    "optimize",
    "refresh",
    "reports",
    "reset",
    "waits_for_host",
]
HOMES = MappingProxyType(
    {
        "Decoder": "capture.decode",
        "OptionError": "options.value",
        "Options": "options.value",
        "Report": "report.value",
        "Rule": "engine.rule",
        "ascend_dense": "backend",
        "decode_loop": "capture.decode",
        "explain": "backend",
        "optimize": "backend",
        "refresh": "compile.compiled_graph",
        "reports": "backend",
        "reset": "backend",
        "waits_for_host": "capture.decode",
    }
)
"""Name -> the module that defines it; `npu` is one itself."""


def __getattr__(name: str) -> Any:
    if name == "npu":
        return importlib.import_module("ascend_passes.npu")
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"ascend_passes.{HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
