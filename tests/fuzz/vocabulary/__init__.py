"""The vocabulary: what decoder models spell, each operator with how often it is drawn.

Each module of this folder has `OPERATORS`, a mapping of its operators to their weights.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from tests.fuzz.draw import Draw

Operator = Callable[[Draw], object]
MODULES = tuple(
    importlib.import_module(f"{__name__}.{name}")
    for name in sorted(found.name for found in pkgutil.iter_modules(__path__))
)
VOCABULARY: dict[Operator, float] = {
    operator: weight for module in MODULES for operator, weight in module.OPERATORS.items()
}
"""Operator -> its weight."""
