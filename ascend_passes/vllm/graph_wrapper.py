"""vLLM's static-graph wrapper for platforms without one: a device graph per batch descriptor.

A platform names it in `get_static_graph_wrapper_cls`. vLLM decides when a step is captured and pads
the batch; this class records the step once and replays it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.config import CUDAGraphMode
from vllm.forward_context import get_forward_context, is_forward_context_available

from ascend_passes.capture import device_for
from ascend_passes.capture.device import Graph


@dataclass(frozen=True)
class Captured:
    """A step of one batch size."""

    graph: Graph
    result: Any
    addresses: tuple[int, ...]
    """Where the step reads its inputs; vLLM keeps them in buffers that stay."""
    kept: tuple[Tensor, ...]
    """Weights, caches and the like: they live as long as the graph that reads them."""


class AscendGraphWrapper:
    """Callable like the model, or the piece of one, that it wraps."""

    def __init__(
        self,
        runnable: Callable[..., Any],
        vllm_config: Any,
        runtime_mode: Any,
        cudagraph_options: Any = None,
    ) -> None:
        self.runnable, self.runtime_mode = runnable, runtime_mode
        self.captured: dict[Any, Captured] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["runnable"], name)

    def unwrap(self) -> Callable[..., Any]:
        """What is wrapped."""
        return self.runnable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay the step of this batch size, capture it first where it is new, or run it plainly.

        Raises:
            RuntimeError: an input lies at another address than when the step was captured.
            CaptureError: the step does what a device graph cannot do.
        """
        if not is_forward_context_available():
            return self.runnable(*args, **kwargs)
        context = get_forward_context()
        mode = context.cudagraph_runtime_mode
        # Pieces hand results to each other, which graphs of one pool may not keep; only whole steps
        # are captured here.
        if mode != self.runtime_mode or mode != CUDAGraphMode.FULL:
            return self.runnable(*args, **kwargs)
        inputs = tensors_in((args, kwargs))
        addresses = tuple(tensor.data_ptr() for tensor in inputs)
        entry = self.captured.get(context.batch_descriptor)
        if entry is None:
            entry = self.capture(inputs, addresses, args, kwargs)
            self.captured[context.batch_descriptor] = entry
        elif entry.addresses != addresses:
            raise RuntimeError(
                f"the step for {context.batch_descriptor} was captured with inputs at other "
                "addresses; keep inputs in persistent buffers"
            )
        entry.graph.replay()
        return entry.result

    def capture(
        self, inputs: list[Tensor], addresses: tuple[int, ...], args: Any, kwargs: Any
    ) -> Captured:
        """Record one step; kernels and groups come up in a run before it."""
        device = device_for(inputs[0].device.type)

        def step() -> Any:
            with torch.inference_mode():
                return self.runnable(*args, **kwargs)

        outside = Outside()
        with outside:
            device.warm_up(step)
        kept = [*inputs, *outside.tensors]
        graph, result = device.capture(step, kept, device.pool())
        return Captured(graph, result, addresses, tuple(kept))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


class Outside(TorchDispatchMode):
    """Inside, the tensors that operators take and none of them made: weights, caches, handles.

    vLLM's layers keep them in closures and in objects of their own; there is no list of them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[Tensor] = []
        self._seen: list[Any] = []
        self._addresses: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operator and remember what it took and made."""
        self.tensors += [tensor for tensor in tensors_in((args, kwargs or {})) if self.new(tensor)]
        result = function(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self.new(tensor)
        return result

    def new(self, tensor: Tensor) -> bool:
        """Whether the tensor's memory occurs for the first time; kept, so that none is reused."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._addresses:
            return False
        self._addresses.add(storage.data_ptr())
        self._seen.append(storage)
        return True
