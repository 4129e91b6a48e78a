"""The one interface over device graphs: NPU graphs, CUDA graphs and the CPU recorder.

All three keep one semantics. A capture records and computes nothing that lasts: memory that the
step writes is afterwards as it was. A replay writes into the memory of the capture and never runs
the model's Python.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


class Graph(Protocol):
    """One captured step."""

    def replay(self, inputs: Sequence[Any] = ()) -> None:
        """Launch the step; its results appear in the memory of the capture's outputs.

        Args:
            inputs: of the call; a device that knows addresses alone does not look at them. Where
                one has got the address of an input that was freed, it is that input from now on.
        """

    def update(self, values: Sequence[Mapping[str, Sequence[int]]]) -> None:
        """Give attention operators new host-side parameters for the next replay.

        Args:
            values: one mapping for all such operators, or one for each in order of the capture;
                parameter name (`actual_seq_lengths_kv`) to its integers.

        Raises:
            CaptureError: `no_update` where the graph has no such parameter.
        """


class Pending(Protocol):
    """A result on its way to the host."""

    def wait(self) -> Tensor:
        """The result in host memory; waits until it is there."""


class Launcher(Protocol):
    """Runs functions one after the other while the host goes on."""

    def submit(self, function: Callable[[], Tensor]) -> Pending:
        """Start `function` behind everything submitted before, and the copy of its result."""

    def close(self) -> None:
        """Wait for what was submitted and release the launcher's resources."""


class Device(Protocol):
    """What capture needs of a device. One instance serves one thread at a time."""

    type: str

    def pool(self) -> Any:
        """The memory pool that all graphs of this device share; replays must not overlap."""

    def resident(self, tensor: Tensor) -> bool:
        """Whether the device can read the tensor's memory."""

    def warm_up(self, function: Callable[[], Any]) -> Any:
        """Run once uncaptured: kernels load, workspaces and groups come up."""

    def capture(
        self, function: Callable[[], Any], inputs: Sequence[Tensor], pool: Any
    ) -> tuple[Graph, Any]:
        """Record `function`; returns the graph and the function's result in fixed memory.

        Args:
            function: reads and writes `inputs` alone.
            inputs: tensors at fixed addresses; the graph does not keep them alive.
            pool: from `pool`.

        Raises:
            CaptureError: something the device cannot capture.
        """

    def launcher(self) -> Launcher:
        """A new launcher on this device."""


@functools.cache
def device_for(kind: str) -> Device:
    """The device of this type, one instance for the process.

    Args:
        kind: `npu`, `cuda` or `cpu`, the type of the tensors that steps work on.

    Raises:
        ValueError: another type.
    """
    if kind == "cpu":
        from ascend_passes.capture.recorder import Recorder

        return Recorder()
    if kind == "cuda":
        from ascend_passes.capture.cuda import cuda

        return cuda()
    if kind == "npu":
        from ascend_passes.capture.npu import npu

        return npu()
    raise ValueError(f"no device graphs on {kind!r}; valid devices: npu, cuda, cpu")
