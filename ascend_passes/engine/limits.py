"""Whether a call of an NPU operator stays within its documented limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from ascend_passes import npu
from ascend_passes.engine.rule import refusal
from ascend_passes.ir.graph import value


def broken_limit(name: str, arguments: Mapping[str, Any], soc: str) -> str | None:
    """The first limit that a call would break, as `operator: reason`; None where it breaks none.

    Args:
        name: the operator.
        arguments: by their names in its schema; nodes stand for their values.
        soc: as in `npu.legality`.
    """
    facts = {key: fx.map_arg(given, value) for key, given in arguments.items()}
    reasons = map(refusal, npu.legality(name, facts, soc))
    return next((f"{name}: {reason}" for reason in reasons if reason is not None), None)
