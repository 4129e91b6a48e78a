"""The vocabulary: what decoder models spell, each operator with how often it is drawn."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.draw import Draw
from tests.fuzz.vocabulary import (
    arithmetic,
    attention,
    caches,
    gates,
    linear,
    norms,
    npu,
    quantize,
    rope,
    shapes,
    zeros,
)

Operator = Callable[[Draw], object]
MODULES = (
    arithmetic,
    attention,
    caches,
    gates,
    linear,
    norms,
    npu,
    quantize,
    rope,
    shapes,
    zeros,
)
VOCABULARY: dict[Operator, float] = {
    operator: weight for module in MODULES for operator, weight in module.OPERATORS.items()
}
"""Operator -> its weight."""
