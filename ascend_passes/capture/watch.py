"""Sees Python functions that bring values to the host before they reach an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ascend_passes.capture.fault import Fault, user_line
from ascend_passes.capture.rules import refused
from ascend_passes.graph import model_line, place
from ascend_passes.trace import graph_break

HOST_READS: Mapping[Any, str] = MappingProxyType(
    {
        Tensor.cpu: "host_copy",
        Tensor.numpy: "host_copy",
        Tensor.tolist: "host_copy",
        Tensor.__array__: "host_copy",
        Tensor.pin_memory: "host_copy",
        Tensor.__repr__: "print",
        Tensor.__format__: "print",
        torch.cuda.synchronize: "synchronize",
    }
)
WAITS = ("host_sync", "host_copy", "print", "dynamic_shape")
"""Kinds of faults by which the host waits for the device."""


def host_reads(gm: fx.GraphModule, device: str) -> Iterator[Fault]:
    """Where a model reads values on the host and the inference graph no longer shows it.

    A read such as `.item()` ends Dynamo's graph. On a CPU, which stands for a device here, AOT
    drops `.cpu()`, since it copies nothing; elsewhere it is a copy that `check.faults` finds.

    Args:
        gm: Dynamo's graph.
        device: type of the device that runs it.
    """
    for node in gm.graph.nodes if device == "cpu" else ():
        if node.op == "call_method" and kind_of_read(node.target, node.args[1:], node.kwargs):
            yield Fault("host_copy", f"Tensor.{node.target}", place(node).line)
    ended = graph_break(gm)
    if ended is not None:
        why, frames = ended
        yield Fault("graph_break", line=model_line(frames), detail=why)


def kind_of_read(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether a tensor's method copies to the host: `.cpu()`, and `.to("cpu")` by that word.

    `.to(x.device)` is a torch.device in the graph, and on a CPU one like any other.
    """
    if name == "to":
        return "cpu" in (*arguments[:1], keywords.get("device"))
    return name in ("cpu", "numpy", "tolist", "pin_memory")


class HostReads(TorchFunctionMode):
    """Calls `found` with each fault; a CPU tensor's `.cpu()` shows nowhere else."""

    def __init__(self, found: Callable[[Fault], None]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = HOST_READS.get(function)
        if function is Tensor.to and "cpu" in (*args[1:2], kwargs.get("device")):
            # Only the word: `.to(x.device)` gives a torch.device and stays where it is.
            kind = "host_copy"
        if kind:
            self._found(Fault(kind, getattr(function, "__qualname__", str(function)), user_line()))
        return function(*args, **kwargs)


class HostWaits(TorchDispatchMode):
    """Calls `found` with each operator by which the host waits."""

    def __init__(self, found: Callable[[Fault], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = refused(function, args, kwargs)
        if kind in WAITS:
            self._found(Fault(kind, function._schema.name, user_line()))
        return function(*args, **kwargs)


def waits(function: Callable[[], Any]) -> tuple[Fault, ...]:
    """Run `function` once and return the first wait of each line by which the host waits."""
    found: dict[str, Fault] = {}

    def keep(fault: Fault) -> None:
        # One Python call, such as printing, reads the device through many operators.
        found.setdefault(fault.line, fault)

    with HostReads(keep), HostWaits(keep):
        function()
    return tuple(found.values())
