"""The NPU operator set: the one intermediate representation of recognized and fused work.

Importing it makes `torch.ops.npu` and `torch.ops.atb` complete on every machine: schemas are
torch_npu's, CPU and CUDA run references with the documented rounding. `torch.ops.ascend_passes` has
what CANN does not.
`npu.npu_rms_norm(x, gamma, eps)` calls `torch.ops.npu.npu_rms_norm`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch

from ascend_passes.distributed.groups import FUNCTIONAL, communicator, resolve
from ascend_passes.ir.traits import traits_of
from ascend_passes.npu.operator import OWN, Conditions, Operator
from ascend_passes.npu.register import install


def families() -> Iterator[tuple[Operator, ...]]:
    """The operators of each file of this folder that has some, by the file's name."""
    for entry in sorted(pkgutil.iter_modules(__path__), key=lambda entry: entry.name):
        yield getattr(importlib.import_module(f"{__name__}.{entry.name}"), "OPERATORS", ())


_operators: dict[str, Operator] = {}
OPERATORS: Mapping[str, Operator] = MappingProxyType(_operators)
"""Operator name, without its namespace -> the operator."""


def register_operators(*operators: Operator) -> None:
    """Make operators known, here and to torch: another package's are as good as our own then.

    An operator that torch knows already, from torch_npu or another library, keeps its schema and
    its other kernels.

    Raises:
        ValueError: another operator has the name.
    """
    for operator in operators:
        if _operators.get(operator.name, operator) is not operator:
            raise ValueError(f"there is another operator of the name {operator.name}")
    install(operators)
    _operators.update((operator.name, operator) for operator in operators)


register_operators(*(operator for family in families() for operator in family))


def of_cann() -> Mapping[str, Operator]:
    """The operators that CANN has: all but those of a namespace of our own."""
    return {name: one for name, one in OPERATORS.items() if one.namespace != OWN}


def operator_of(target: Any) -> Operator | None:
    """The operator that a node calls; None where it is none of these."""
    found = traits_of(target)
    return found if isinstance(found, Operator) else None


def bound(name: str, result: str, dtype: torch.dtype) -> float:
    """The largest error of one result of an operator's reference.

    Raises:
        KeyError: nothing is stated for this operator, result or dtype.
    """
    stated = OPERATORS[name].accuracy
    found = {} if isinstance(stated, str) else {one.result: one.largest for one in stated}
    return found[result][dtype]


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


def hcom(group: str, device: str) -> str:
    """What an operator's `hcom` takes for a process group: HCCL's name of it on an NPU, the group's
    own elsewhere.

    Args:
        group: the name that a collective gives; one that this process does not know comes back,
            and the operator's limits refuse it.
        device: type of the device, `x.device.type`.
    """
    known = resolve(group, FUNCTIONAL)
    return group if known is None else communicator(known, device)


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
