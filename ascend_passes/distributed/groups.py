"""Process groups of a graph's collectives: how many ranks, which one is this, and how to call them.

Two families of collectives occur: torch's functional ones, which need a wait, and vLLM's.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, fx
from torch.distributed import distributed_c10d

from ascend_passes.ir.graph import operator_name, value
from ascend_passes.ir.traits import traits_of

if TYPE_CHECKING:  # it loads what traces, which the operators do without
    from ascend_passes.ir.edit import Editor

FUNCTIONAL = "_c10d_functional"
VLLM = "vllm"


@dataclass(frozen=True)
class Group:
    """A process group as a graph names it, seen from this process."""

    name: str
    size: int
    rank: int
    """This process's place in the group; no decision may depend on it."""
    family: str = FUNCTIONAL

    def reduce_scatter(self, edit: Editor, rows: fx.Node, result: Tensor) -> fx.Node:
        """`[size * N, ...] -> [N, ...]`, a rank's rows of the sum; `result` is its fake value."""
        if self.family == VLLM:
            target = torch.ops.vllm.reduce_scatter.default
            return edit.known(result, target, rows, 0, self.size, self.name)
        target = torch.ops._c10d_functional.reduce_scatter_tensor.default
        return waited(edit, edit.known(result, target, rows, "sum", self.size, self.name))

    def all_gather(self, edit: Editor, rows: fx.Node, result: Tensor) -> fx.Node:
        """`[N, ...] -> [size * N, ...]`, the rows of all ranks; `result` is its fake value."""
        if self.family == VLLM:
            target = torch.ops.vllm.all_gather.default
            return edit.known(result, target, rows, 0, self.size, self.name)
        target = torch.ops._c10d_functional.all_gather_into_tensor.default
        return waited(edit, edit.known(result, target, rows, self.size, self.name))


def waited(edit: Editor, started: fx.Node) -> fx.Node:
    """The node that waits for a functional collective."""
    return edit.known(value(started), torch.ops._c10d_functional.wait_tensor.default, started)


ASSUMED: ContextVar[Mapping[str, Group]] = ContextVar("ASSUMED", default=MappingProxyType({}))
"""Groups that stand in for ones of another machine, inside `assuming`."""


@contextmanager
def assuming(*groups: Group) -> Iterator[None]:
    """Inside, graphs that name these groups are read as if this process belonged to them.

    For estimates of graphs that run elsewhere; nothing can be run with such a group.
    """
    token = ASSUMED.set({group.name: group for group in groups})
    try:
        yield
    finally:
        ASSUMED.reset(token)


COMMUNICATORS: dict[str, Group] = {}
"""HCCL's name of a group -> the group, for each that this process has asked for."""


def resolve(name: str, family: str) -> Group | None:
    """The group behind a name, or None where this process knows none (a graph traced elsewhere).

    Args:
        name: as a collective gives it, or an operator's `hcom`.
        family: of the collective; `FUNCTIONAL` for an `hcom`.
    """
    if name in ASSUMED.get():
        return ASSUMED.get()[name]
    if name in COMMUNICATORS:
        return COMMUNICATORS[name]
    if family == VLLM:
        state = sys.modules.get("vllm.distributed.parallel_state")
        reference = state._groups.get(name) if state is not None else None
        group = reference() if reference is not None else None
        return Group(name, group.world_size, group.rank_in_group, VLLM) if group else None
    try:
        found = process_group(name)
    except (LookupError, RuntimeError, ValueError):
        return None
    return Group(name, found.size(), found.rank(), FUNCTIONAL)


def family_of(node: fx.Node) -> str:
    """The family of a collective, "" where the node calls none."""
    return operator_name(node).partition("::")[0] if plain_collective(node) else ""


def plain_collective(node: fx.Node) -> str:
    """What ranks do in a collective that is nothing else beside; "" for any other node."""
    traits = traits_of(node.target)
    return "" if traits.matmul else traits.collective


def group_name(node: fx.Node) -> str:
    """The group that a collective names: always its last argument."""
    arguments: list[Any] = [*node.args, *node.kwargs.values()]
    return str(arguments[-1])


def communicator(group: Group, device: str) -> str:
    """The name that an operator's `hcom` takes: HCCL's on an NPU, torch's group elsewhere."""
    if group.name in ASSUMED.get():
        return group.name
    if group.family == VLLM:
        processes = (
            sys.modules["vllm.distributed.parallel_state"]._groups[group.name]().device_group
        )
    else:
        processes = process_group(group.name)
    if device != "npu":
        return str(processes.group_name)
    backend = processes._get_backend(torch.device("npu"))
    name = str(backend.get_hccl_comm_name(distributed_c10d.get_rank()))
    COMMUNICATORS[name] = group
    return name


def members(name: str, family: str) -> tuple[int, ...]:
    """The global ranks of a group; none where this process does not know it."""
    if family == VLLM:
        state = sys.modules.get("vllm.distributed.parallel_state")
        reference = state._groups.get(name) if state is not None else None
        group = reference() if reference is not None else None
        return tuple(group.ranks) if group else ()
    try:
        return tuple(distributed_c10d.get_process_group_ranks(process_group(name)))
    except (LookupError, RuntimeError, ValueError):
        return ()


def place_among(name: str, ranks: Sequence[int]) -> str:
    """Which of the groups of these ranks a group is, in the order in which they were made.

    Its ranks all made it, so they can compare that; its name is each rank's own.
    """
    pairs = distributed_c10d._world.pg_names.items()
    alike = [
        str(given)
        for group, given in pairs
        if sorted(distributed_c10d.get_process_group_ranks(group)) == sorted(ranks)
    ]
    return f"number {alike.index(name) + 1} of ranks {sorted(ranks)}" if name in alike else name


def ranks_of(call: fx.Node) -> tuple[int, ...] | str:
    """The global ranks of a collective, its group's name where this process does not know them."""
    name = group_name(call)
    return members(name, family_of(call)) or name


def busiest(calls: Iterable[fx.Node]) -> tuple[int, ...] | str:
    """The ranks with most of these collectives, the first ones of several; nobody without any."""
    counts = Counter(map(ranks_of, calls))
    return counts.most_common(1)[0][0] if counts else ()


def process_group(name: str) -> dist.ProcessGroup:
    """torch's group of a name.

    Raises:
        LookupError, RuntimeError, ValueError: there is none in this process.
    """
    resolve_name: Callable[[Any], dist.ProcessGroup] = distributed_c10d._resolve_process_group
    return resolve_name(name)
