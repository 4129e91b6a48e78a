"""Sees Python functions that bring values to the host before they reach an operator."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ascend_passes.capture.fault import Fault, user_line
from ascend_passes.capture.rules import capture_refusal
from ascend_passes.ir.graph import model_line, place
from ascend_passes.ir.graph_ends import graph_break

HOST_READS: Mapping[Any, str] = MappingProxyType(
    {
        Tensor.cpu: "host_copy",
        Tensor.numpy: "host_copy",
        Tensor.tolist: "host_copy",
        Tensor.__array__: "host_copy",
        Tensor.pin_memory: "host_copy",
        Tensor.__repr__: "print",
        Tensor.__format__: "print",
    }
)
SYNCHRONIZE = ("cpu", "cuda", "npu", "accelerator")
"""Modules of torch whose `synchronize` waits for the device; the CPU's stands for all here."""
WAITS = ("host_sync", "host_copy", "print", "dynamic_shape", "synchronize")
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
    """Calls `found` with each fault; a CPU tensor's `.cpu()` shows nowhere else.

    `.to(device)` counts where the device is the CPU by name and no tensor told it meanwhile: in
    `.to(x.device)` it stands for x's device.
    """

    def __init__(self, found: Callable[[Fault], None]) -> None:
        super().__init__()
        self._found = found
        self._told: list[torch.device] = []
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> HostReads:
        for module in filter(None, (getattr(torch, name, None) for name in SYNCHRONIZE)):
            self._patches.enter_context(watched(module, self._found))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._patches.close()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = HOST_READS.get(function)
        if function is Tensor.to and any(map(self._names_host, (*args[1:2], *kwargs.values()))):
            kind = "host_copy"
        if kind:
            self._found(Fault(kind, getattr(function, "__qualname__", str(function)), user_line()))
        result = function(*args, **kwargs)
        if isinstance(result, torch.device) and function is not torch.device:
            self._told.append(result)
        return result

    def _names_host(self, argument: Any) -> bool:
        """Whether an argument is the CPU, and not the device of some tensor."""
        if not isinstance(argument, torch.device):
            return bool(argument == "cpu")
        told = any(argument is device for device in self._told)
        return argument.type == "cpu" and not told


@contextlib.contextmanager
def watched(module: Any, found: Callable[[Fault], None]) -> Iterator[None]:
    """Call `found` where this thread calls the module's `synchronize`, which no mode sees."""
    plain, thread = module.synchronize, threading.get_ident()

    @functools.wraps(plain)
    def synchronize(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            found(Fault("synchronize", f"{module.__name__}.synchronize", user_line()))
        return plain(*args, **kwargs)

    module.synchronize = synchronize
    try:
        yield
    finally:
        module.synchronize = plain


class HostWaits(TorchDispatchMode):
    """Calls `found` with each operator by which the host waits."""

    def __init__(self, found: Callable[[Fault], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = capture_refusal(function, args, kwargs)
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
