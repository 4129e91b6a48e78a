"""What can be observed of a call: values, layout, and which tensors are or share memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """One tensor, or a result that is none."""

    value: Any
    """A copy of it."""
    layout: tuple[Any, ...] = ()
    """Shape, strides, dtype, the kind of tensor and whether it has a gradient."""
    sharing: frozenset[str] = frozenset()
    """What lies in the same memory; empty for inputs and parameters."""
    same: frozenset[str] = frozenset()
    """What is the same object."""


Observation = Mapping[str, Seen]
"""By name: `result 0`, `input x0`, `state p1`."""


def address(value: Any) -> int:
    """Where a tensor's memory lies; 0 for what has none."""
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) and value.numel() else 0


def strides(value: Tensor) -> tuple[int, ...]:
    """The strides that say where elements lie: those of dims of one element say nothing."""
    if value.numel() == 0:
        return ()
    return tuple(
        stride if size > 1 else 0 for size, stride in zip(value.shape, value.stride(), strict=True)
    )


def seen(name: str, value: Any, everything: Mapping[str, Any]) -> Seen:
    """One thing among everything."""
    if not isinstance(value, Tensor):
        return Seen(value, (type(value).__name__,))
    layout = (tuple(value.shape), strides(value), value.dtype, type(value), value.requires_grad)
    with torch.no_grad():
        copy = value.detach().clone()
    if not name.startswith("result"):
        return Seen(copy, layout)
    here = address(value)
    sharing = (
        n for n, other in everything.items() if n != name and here and address(other) == here
    )
    same = (n for n, other in everything.items() if n != name and other is value)
    return Seen(copy, layout, frozenset(sharing), frozenset(same))


def observe(
    results: Sequence[Any], inputs: Mapping[str, Any], module: torch.nn.Module
) -> Observation:
    """Everything after a call."""
    everything = {f"result {index}": value for index, value in enumerate(results)}
    everything |= {f"input {name}": value for name, value in inputs.items()}
    state = [*module.named_parameters(), *module.named_buffers()]
    everything |= {f"state {name}": value for name, value in state}
    return {name: seen(name, value, everything) for name, value in everything.items()}
