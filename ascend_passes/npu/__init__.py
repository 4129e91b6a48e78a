"""The NPU operator set: the one intermediate representation of recognized and fused work.

Importing it makes `torch.ops.npu` and `torch.ops.atb` complete on every machine: schemas are
torch_npu's, CPU and CUDA run references with the documented rounding.
`npu.npu_rms_norm(x, gamma, eps)` calls `torch.ops.npu.npu_rms_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from ascend_passes.npu import (
    activation,
    cache,
    collective,
    matmul,
    norm,
    prefetch,
    quantize,
    register,
    rotary,
)
from ascend_passes.npu.operator import Conditions, Operator

ALL: tuple[Operator, ...] = (
    *norm.OPERATORS,
    *quantize.OPERATORS,
    *matmul.OPERATORS,
    *activation.OPERATORS,
    *rotary.OPERATORS,
    *collective.OPERATORS,
    *prefetch.OPERATORS,
    *cache.OPERATORS,
)
OPERATORS: Mapping[str, Operator] = MappingProxyType({operator.name: operator for operator in ALL})
"""Operator name, without its namespace -> the operator."""

register.install(ALL)


def packet(name: str) -> Any:
    """torch's callable for an operator of this set.

    Raises:
        KeyError: there is no operator of this name.
    """
    operator = OPERATORS[name]
    return getattr(getattr(torch.ops, operator.namespace), name)


def call(name: str, *arguments: Any, **keywords: Any) -> Any:
    """Call an operator by name."""
    return packet(name)(*arguments, **keywords)


def legality(name: str, arguments: Mapping[str, Any], soc: str) -> Conditions:
    """The documented conditions on a call, each as (holds, reason it fails for).

    Args:
        name: the operator, with or without `npu::`.
        arguments: schema argument name -> value, fake or real; missing ones take their defaults.
        soc: the chip as CANN names it, such as `Ascend910B`, `Ascend910_93` or `Ascend910_95`.

    Raises:
        KeyError: there is no operator of this name.
        TypeError: an argument that the schema does not have, or a missing one without default.
    """
    name = name.rpartition("::")[2]
    return OPERATORS[name].limits(complete(name, arguments), soc)


def complete(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the schema's defaults filled in."""
    entries = packet(name).default._schema.arguments
    unknown = set(arguments) - {entry.name for entry in entries}
    if unknown:
        raise TypeError(f"{name} has no argument {', '.join(sorted(unknown))}")
    missing = [e.name for e in entries if e.name not in arguments and not e.has_default_value()]
    if missing:
        raise TypeError(f"{name} needs {', '.join(missing)}")
    return {entry.name: arguments.get(entry.name, entry.default_value) for entry in entries}


def __getattr__(name: str) -> Any:
    if name in OPERATORS:
        return packet(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
