"""Numbers on the stand-in: operators on `npu:0` compute on the CPU, in the device's own memory.

The stand-in's device memory is host memory, so a CPU tensor can lie over a device tensor. Every
aten operator that torch_npu registers for its device is replaced by the CPU's, and every operator
that we declare by its CPU reference. Views and allocation stay torch_npu's. An operator that nobody
replaced fails by name, because the stand-in's own kernels refuse.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.conformance.inside import replay

DEVICE = "npu:0"
ALLOCATION = frozenset(
    {
        "empty.memory_format",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "resize_",
        "resize_as_",
        "set_",
        "set_.source_Storage",
        "set_.source_Storage_storage_offset",
        "set_.source_Tensor",
        "record_stream",
        "is_pinned",
        "_pin_memory",
        "pin_memory",
        "is_set_to",
    }
)
"""Operators about memory and not about values: torch_npu's own serve."""
READS_TO_HOST = ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero")


def host(tensor: Tensor) -> Tensor:
    """A CPU tensor over the memory of a device tensor: same sizes, strides and bytes."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    flat = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    empty = torch.empty(0, dtype=tensor.dtype)
    return empty.set_(flat, tensor.storage_offset(), tensor.size(), tensor.stride())


def to_host(value: Any) -> Any:
    """`host` for tensors on the device, the CPU for devices; anything else as it is."""
    if isinstance(value, Tensor) and value.device.type == "npu":
        return host(value)
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value


def tensors(*values: Any) -> list[Tensor]:
    """The tensors among arguments or results, in order."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def to_device(result: Tensor, sources: Mapping[int, Tensor]) -> Tensor:
    """The device tensor for a CPU result: a view of an argument, or a new one with its numbers.

    Args:
        result: what the CPU computed.
        sources: address of the storage -> device tensor, for the arguments.
    """
    address = result.untyped_storage().data_ptr()
    source = sources.get(address) if address else None
    if source is not None and source.dtype == result.dtype:
        return source.as_strided(result.size(), result.stride(), result.storage_offset())
    fresh = torch.empty_strided(result.size(), result.stride(), dtype=result.dtype, device=DEVICE)
    host(fresh).copy_(result)
    return fresh


def blank(tensor: Tensor) -> Tensor:
    """Zeros with the layout of a tensor: what sizes a captured operator, which does not run."""
    last = sum((n - 1) * step for n, step in zip(tensor.size(), tensor.stride(), strict=True))
    memory = torch.zeros(tensor.storage_offset() + max(last + 1, 0), dtype=tensor.dtype)
    return memory.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def call(compute: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
    """Run an operator on the host's view of its arguments; in a capture, only record it."""
    recording = replay.RECORDER.recording
    if recording and name in READS_TO_HOST:
        raise RuntimeError(f"{name} reads from the device while a graph is captured")
    wanted = kwargs.get("device")
    host_args, host_kwargs = pytree.tree_map(to_host, (args, kwargs))
    host_kwargs.pop("pin_memory", None)
    used = pytree.tree_map_only(Tensor, blank, (host_args, host_kwargs)) if recording else None
    used_args, used_kwargs = used or (host_args, host_kwargs)
    result = compute(*used_args, **used_kwargs)
    if wanted is not None and torch.device(wanted).type == "cpu":
        return result
    pairs = list(zip(tensors(used_args, used_kwargs), tensors(args, kwargs), strict=True))
    given = {id(mine): theirs for mine, theirs in pairs}
    sources = {
        mine.untyped_storage().data_ptr(): theirs
        for mine, theirs in pairs
        if theirs.device.type == "npu"
    }
    returned = pytree.tree_map_only(
        Tensor, lambda t: given[id(t)] if id(t) in given else to_device(t, sources), result
    )
    if recording:
        record(lambda: compute(*host_args, **host_kwargs), returned, tensors(args, kwargs))
    return returned


def record(run: Callable[[], Any], returned: Any, arguments: list[Tensor]) -> None:
    """Add a step that computes and puts each new result where the capture made room for it."""
    old = {argument.untyped_storage().data_ptr() for argument in arguments}
    places = [
        None if leaf.untyped_storage().data_ptr() in old else host(leaf)
        for leaf in tensors(returned)
    ]

    def step() -> None:
        for place, result in zip(places, tensors(run()), strict=True):
            if place is not None:
                place.copy_(result)

    replay.RECORDER.record(step)


def implement(overload: Any, compute: Callable[..., Any]) -> None:
    """Let `compute` be an operator's kernel on the device."""
    schema = overload._schema
    space, _, short = schema.name.partition("::")
    name = short + (f".{schema.overload_name}" if schema.overload_name else "")
    kernel = functools.partial(call, compute, schema.name)
    library(space).impl(name, kernel, "PrivateUse1", allow_override=True)


def aten_overloads() -> list[Any]:
    """The aten operators that torch_npu has kernels of its own for, but views and allocation."""
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1")
    names = (name.removeprefix("aten::") for name in registered if name.startswith("aten::"))
    found = []
    for name in sorted(set(names) - ALLOCATION):
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if operator is not None and not returns_view(operator):
            found.append(operator)
    return found


def returns_view(overload: Any) -> bool:
    """Whether a result is a view of an argument, by the schema."""
    return any(
        r.alias_info is not None and not r.alias_info.is_write for r in overload._schema.returns
    )


def install(references: Mapping[str, Callable[..., Any]]) -> replay.Recorder:
    """Make every operator compute.

    Args:
        references: `namespace::name` -> function of CPU tensors with the operator's signature.

    Returns:
        The recorder that replays captured graphs.
    """
    for overload in aten_overloads():
        implement(overload, overload)
    for name, reference in references.items():
        space, _, rest = name.partition("::")
        packet, _, variant = rest.partition(".")
        overload = getattr(getattr(getattr(torch.ops, space), packet), variant or "default")
        implement(overload, reference)
    return replay.install()


@functools.cache
def library(namespace: str) -> torch.library.Library:
    """The holder of a namespace's registrations; they last as long as the process."""
    return torch.library.Library(namespace, "IMPL")
