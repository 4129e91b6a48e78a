"""Device graphs of an accelerator; torch gives CUDA and NPU the same functions under two names."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ascend_passes.capture.fault import CaptureError, fault_error

HOST_BUFFERS = 4
"""Results that may be on their way to the host at once; a decode loop has two."""


@dataclass(frozen=True)
class AcceleratorGraph:
    """A captured graph and how its host-side parameters are updated."""

    graph: Any
    update_graph: Callable[[Any, Sequence[Mapping[str, Sequence[int]]]], None]

    def replay(self, inputs: Sequence[Any] = ()) -> None:
        """Launch the graph on the current stream, which reads at the addresses of its capture."""
        self.graph.replay()

    def update(self, values: Sequence[Mapping[str, Sequence[int]]]) -> None:
        """New host-side parameters for the next replay; see `device.Graph`."""
        self.update_graph(self.graph, values)


class Accelerator:
    """`device.Device` over `torch.cuda` or `torch.npu`."""

    def __init__(
        self,
        kind: str,
        module: Any,
        new_graph: Callable[[], Any],
        update_graph: Callable[[Any, Sequence[Mapping[str, Sequence[int]]]], None],
        capture_options: Mapping[str, Any],
    ) -> None:
        self.type = kind
        self._module = module
        self._new_graph = new_graph
        self._update_graph = update_graph
        self._capture_options = capture_options
        self._stream = module.Stream()
        self._pool = module.graph_pool_handle()
        self._keeper: Any = None

    def pool(self) -> Any:
        """The handle of the one pool."""
        return self._pool

    def resident(self, tensor: Tensor) -> bool:
        """Whether the tensor is on this kind of device."""
        return tensor.device.type == self.type

    def warm_up(self, function: Callable[[], Any]) -> Any:
        """Run on the capture's stream, so that its workspaces exist outside the pool."""
        current = self._module.current_stream()
        self._stream.wait_stream(current)
        with self._module.stream(self._stream):
            result = function()
        current.wait_stream(self._stream)
        return result

    def capture(
        self, function: Callable[[], Any], inputs: Sequence[Tensor], pool: Any
    ) -> tuple[AcceleratorGraph, Any]:
        """Record on the device's own graph; see `device.Device`."""
        strangers = [tensor for tensor in inputs if not self.resident(tensor)]
        if strangers:
            raise fault_error("host_input", detail=f"an input is on {strangers[0].device}")
        graph = self._new_graph()
        try:
            if self._keeper is None:
                self._keeper = self._empty_graph(pool)
            with self._module.graph(graph, pool=pool, stream=self._stream, **self._capture_options):
                result = function()
        except CaptureError:
            raise
        except RuntimeError as error:
            self._module.synchronize()
            raise fault_error("device", detail=str(error).splitlines()[0]) from error
        return AcceleratorGraph(graph, self._update_graph), result

    def _empty_graph(self, pool: Any) -> Any:
        """A graph without work that lives as long as this device, so that its pool does.

        An allocator refuses a pool whose last graph is gone: torch_npu 2.13 with an internal assert
        on its use count. All graphs are gone whenever the one step that was captured is compiled
        anew, or captured anew because a weight has moved.
        """
        graph = self._new_graph()
        with (
            warnings.catch_warnings(action="ignore", category=UserWarning),  # that it is empty
            self._module.graph(graph, pool=pool, stream=self._stream, **self._capture_options),
        ):
            pass
        return graph

    def launcher(self) -> StreamLauncher:
        """Launches on the current stream."""
        return StreamLauncher(self._module)


@dataclass(frozen=True)
class Arriving:
    """A result in pinned memory once the event is reached."""

    event: Any
    buffer: Tensor

    def wait(self) -> Tensor:
        """The result, in memory of its own."""
        self.event.synchronize()
        return self.buffer.clone()


class StreamLauncher:
    """`device.Launcher` on a stream: a launch returns at once, pinned buffers take the results.

    At most `HOST_BUFFERS` results may be unread.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._buffers: list[Tensor] = []
        self._turns = itertools.count()

    def submit(self, function: Callable[[], Tensor]) -> Arriving:
        """Launch, then queue the copy of the result behind it on the same stream."""
        result = function()
        buffer = self._buffer(result)
        buffer.copy_(result, non_blocking=True)
        event = self._module.Event()
        event.record()
        return Arriving(event, buffer)

    def _buffer(self, result: Tensor) -> Tensor:
        if not self._buffers or self._buffers[0].shape != result.shape:
            # Pinning waits for the device; one time before the steps, not in each of them.
            self._buffers = [
                torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
                for _ in range(HOST_BUFFERS)
            ]
        return self._buffers[next(self._turns) % HOST_BUFFERS]

    def close(self) -> None:
        """Wait for the stream, since results may still be read from the pinned buffers."""
        self._module.current_stream().synchronize()
