"""Device graphs on a CPU: operators are recorded once and replayed into the same memory.

The recorder keeps the rules of a device graph and fails where a device would, so that capture bugs
are found without one. It is as strange as a device where that matters: a capture computes nothing
that lasts, its memory is poisoned until the first replay, and a replay of another graph of the pool
poisons it again. It sees operators of the dispatcher; kernels called around it (Inductor's C++) end
in memory that nothing made, which is a fault.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from ascend_passes.capture.fault import CaptureError, Fault, fault_error
from ascend_passes.capture.memory import Memory
from ascend_passes.capture.recording import Pool, RecordedGraph, Recording, in_parts, tensor_leaves
from ascend_passes.capture.rules import group_of
from ascend_passes.capture.watch import HostReads


class Recorder:
    """`device.Device` on a CPU: host memory stands for the device's."""

    type = "cpu"

    def __init__(self) -> None:
        self._pool = Pool()
        self._warmed: set[str] = set()
        self._host: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self._capturing = False
        self._apart = 0

    def pool(self) -> Pool:
        """The one pool."""
        return self._pool

    def resident(self, tensor: Tensor) -> bool:
        """Whether the tensor counts as device memory."""
        return self._host.get(id(tensor)) is not tensor

    def keep_on_host(self, tensor: Tensor) -> Tensor:
        """Let a tensor stand for host memory, which the device cannot read."""
        self._host[id(tensor)] = tensor
        return tensor

    def warm_up(self, function: Callable[[], Any]) -> Any:
        """Run once and remember which groups of collectives came up."""
        with WarmUp(self._warmed):
            return function()

    def synchronize(self) -> None:
        """Wait for the device, which is a fault inside a capture."""
        if self._capturing:
            raise fault_error("synchronize")

    @contextlib.contextmanager
    def side_stream(self) -> Iterator[Callable[[], None]]:
        """Work beside the captured stream; the value is the function that joins it."""
        self._apart += 1
        joined = False

        def join() -> None:
            nonlocal joined
            self._apart -= 0 if joined else 1
            joined = True

        yield join

    def capture(
        self, function: Callable[[], Any], inputs: Sequence[Tensor], pool: Pool
    ) -> tuple[RecordedGraph, Any]:
        """Record `function`; see `device.Device`."""
        if self._capturing:
            raise fault_error("nested_capture")
        if not all(map(self.resident, inputs)):
            raise fault_error("host_input")
        memory = Memory(inputs)
        recording = Recording(memory, self._warmed)
        self._capturing, self._apart = True, 0
        try:
            with torch.no_grad(), HostReads(raise_fault), recording:
                result = function()
            if self._apart:
                raise fault_error("unjoined_stream")
            if not all(map(memory.knows, tensor_leaves(result))):
                raise fault_error("undeclared_memory", detail="a result")
        finally:
            self._capturing = False
            recording.restore()
        graph = RecordedGraph(pool)
        graph.hold(memory, recording.calls)
        return graph, result

    def launcher(self) -> WorkerLauncher:
        """A worker thread stands for the device's queue."""
        return WorkerLauncher()


class WarmUp(TorchDispatchMode):
    """Notes the groups whose communication starts."""

    supports_higher_order_operators = True

    def __init__(self, warmed: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._warmed = warmed

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if isinstance(function, HigherOrderOperator):
            return in_parts(self, function, args, kwargs or {})
        group = group_of(function, args, kwargs or {})
        if group is not None:
            self._warmed.add(group)
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Running:
    """A result that the worker computes."""

    future: Future[Tensor]

    def wait(self) -> Tensor:
        """The result, in memory of its own."""
        return self.future.result()


class WorkerLauncher:
    """`device.Launcher` of one thread: functions run in order while the caller goes on."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, "ascend_passes")

    def submit(self, function: Callable[[], Tensor]) -> Running:
        """Queue `function` and the copy of its result."""
        return Running(self._worker.submit(lambda: function().clone()))

    def close(self) -> None:
        """Wait for everything queued."""
        self._worker.shutdown(wait=True)


def raise_fault(fault: Fault) -> None:
    """Raise a fault that the watch found."""
    raise CaptureError(fault)
