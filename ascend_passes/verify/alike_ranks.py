"""Collectives without other processes: every rank of a group holds what this one holds.

So a rule with a collective in it can be checked on one machine. What it would do with ranks that
differ is not seen: sums count as many equal parts, and gathers repeat the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ascend_passes import npu
from ascend_passes.distributed.groups import FUNCTIONAL, Group, assuming, resolve
from ascend_passes.engine.examples import STRINGS

RANKS = 2
"""Ranks of each group whose name a rule leaves open."""


def renamed(name: str) -> str:
    """The other name that a string of a rule is tried with."""
    return f"another_{name}"


GROUPS = tuple(Group(name, RANKS, 0) for one in STRINGS for name in (one, renamed(one)))


def assumed_groups() -> AbstractContextManager[None]:
    """Inside, each string that a rule is tried with is a group that this process belongs to."""
    return assuming(*GROUPS)


@contextmanager
def alike_ranks() -> Iterator[None]:
    """Inside, collectives of assumed groups are computed, and others run as ever."""
    with assumed_groups(), Collectives():  # type: ignore[no-untyped-call]
        yield


def all_reduce(x: Tensor, operation: str, group: str) -> Tensor:
    """The sum of equal parts; an average or a largest one is the part itself."""
    return x * size_of(group) if operation == "sum" else x.clone()


def all_gather(x: Tensor, count: int, group: str) -> Tensor:
    """The rows once for each rank."""
    return torch.cat([x] * count)


def gathered_together(parts: Sequence[Tensor], count: int, group: str) -> list[Tensor]:
    """The rows of each tensor once for each rank."""
    return [all_gather(part, count, group) for part in parts]


def reduce_scatter(x: Tensor, operation: str, count: int, group: str) -> Tensor:
    """The first rank's rows of the reduced ones."""
    total = x * count if operation == "sum" else x
    return total[: len(x) // count].clone()


NAMES = frozenset(group.name for group in GROUPS)
COMPUTED: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        f"{FUNCTIONAL}::all_reduce": all_reduce,
        f"{FUNCTIONAL}::all_gather_into_tensor": all_gather,
        f"{FUNCTIONAL}::all_gather_into_tensor_coalesced": gathered_together,
        f"{FUNCTIONAL}::reduce_scatter_tensor": reduce_scatter,
    }
)


def size_of(group: str) -> int:
    """The ranks of a group that is assumed."""
    known = resolve(group, FUNCTIONAL)
    assert known is not None
    return known.size


class Collectives(TorchDispatchMode):
    """Computes the collectives of assumed groups."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        operator = npu.operator_of(func)
        if operator is not None and operator.collective:
            with self:  # torch leaves the mode inside of a kernel
                return operator.reference(*args, **(kwargs or {}))
        computed = COMPUTED.get(func._schema.name)
        if computed is None or args[-1] not in NAMES:
            return func(*args, **(kwargs or {}))
        return computed(*args)
