"""What the recorder writes down at a capture, and how it plays it back."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ascend_passes.capture.fault import fault_error
from ascend_passes.capture.memory import Memory
from ascend_passes.capture.rules import capture_refusal, group_of
from ascend_passes.capture.update import updated_call
from ascend_passes.ir.graph import writes_possible
from ascend_passes.ir.traits import name_of, traits_of

UNINITIALIZED = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided")
"""Operators with nothing to replay: a device leaves in the memory what was there."""
HOST_CONSTANTS = ("aten::lift_fresh", "aten::lift_fresh_copy")


@dataclass(frozen=True)
class RecordedCall:
    """One recorded operator call; inputs of the graph are regions, not tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[tuple[int, Tensor], ...]
    """(position among the flat results, fixed memory) of each result that is not a view."""


@dataclass
class Pool:
    """Memory that graphs share: a replay of one may overwrite the results of the others."""

    last: weakref.ref[RecordedGraph] | None = None

    def replaying(self, graph: RecordedGraph) -> None:
        """Poison the results of the graph that ran before, where it is another one."""
        before = self.last() if self.last is not None else None
        if before is not None and before is not graph:
            before.poison()
        self.last = weakref.ref(graph)


class RecordedGraph:
    """`device.Graph` of the recorder."""

    def __init__(self, pool: Pool) -> None:
        self.calls: list[RecordedCall] | None = None
        self._memory = Memory(())
        self._pool = pool

    def hold(self, memory: Memory, calls: list[RecordedCall]) -> None:
        """Take a finished recording; the memory is poisoned until the first replay.

        Raises:
            CaptureError: `captured_twice`.
        """
        if self.calls is not None:
            raise fault_error("captured_twice")
        self._memory, self.calls = memory, calls
        self.poison()

    def replay(self, inputs: Sequence[Any] = ()) -> None:
        """Run the calls again, each into the memory of its capture; see `device.Graph`.

        Raises:
            CaptureError: not captured, an input freed or moved, a shape that depends on data.
        """
        if self.calls is None:
            raise fault_error("not_captured")
        self._memory.renew(inputs)
        self._memory.check()
        self._pool.replaying(self)
        with torch.no_grad():
            for call in self.calls:
                replay_call(call, self._memory)

    def update(self, values: Sequence[Mapping[str, Sequence[int]]]) -> None:
        """New host-side parameters for attention operators; see `device.Graph`."""
        calls = self.calls or []
        places = [index for index, call in enumerate(calls) if traits_of(call.function).host_lists]
        if not places:
            raise fault_error("no_update")
        for turn, index in enumerate(places):
            call = calls[index]
            given = values[turn] if len(values) > 1 else values[0]
            args, kwargs = updated_call(call.function, call.args, call.kwargs, given)
            calls[index] = RecordedCall(call.function, args, kwargs, call.results)

    def poison(self) -> None:
        """Fill the graph's memory with values that show when they are read."""
        for call in self.calls or ():
            for _, memory in call.results:
                poison(memory)


class Recording(TorchDispatchMode):
    """Records every operator that reaches the device."""

    supports_higher_order_operators = True

    def __init__(self, memory: Memory, warmed: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[RecordedCall] = []
        self._memory = memory
        self._warmed = warmed
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(function, HigherOrderOperator):
            return in_parts(self, function, args, kwargs)
        self._refuse(function, args, kwargs)
        refer = self._memory.refer
        kept = tree_map(lambda value: refer(value, name_of(function)), (args, kwargs))
        self._save_what_is_written(function, args, kwargs)
        result = function(*args, **kwargs)
        new = tuple(
            (index, leaf)
            for index, leaf in enumerate(tree_leaves(result))
            if isinstance(leaf, Tensor) and (is_empty(leaf) or not self._memory.knows(leaf))
        )
        for _, leaf in new:
            self._memory.own(leaf)
        if name_of(function) not in UNINITIALIZED and (
            new or writes_possible(function) or not views(function)
        ):
            self.calls.append(RecordedCall(function, kept[0], kept[1], new))
        return result

    def _refuse(self, function: Any, args: Any, kwargs: Any) -> None:
        kind = capture_refusal(function, args, kwargs)
        group = group_of(function, args, kwargs)
        if group is not None and group not in self._warmed:
            kind = "cold_collective"
        if name_of(function) in HOST_CONSTANTS and not self._memory.is_input(args[0]):
            kind = "host_constant"
        if kind:
            raise fault_error(kind, name_of(function))

    def _save_what_is_written(self, function: Any, args: Any, kwargs: Any) -> None:
        # vLLM's collectives say that they make their result; on a CPU they overwrite their input.
        if not writes_possible(function) and group_of(function, args, kwargs) is None:
            return
        for tensor in filter(self._memory.is_input, tensor_leaves((args, kwargs))):
            storage = tensor.untyped_storage()
            self._before.setdefault(storage.data_ptr(), (tensor, bytes_of(tensor).clone()))

    def restore(self) -> None:
        """Undo what the recorded calls did to inputs: a capture computes nothing that lasts."""
        for tensor, saved in self._before.values():
            bytes_of(tensor).copy_(saved)


def in_parts(mode: TorchDispatchMode, function: HigherOrderOperator, args: Any, kwargs: Any) -> Any:
    """Run a functional form of a mutating operator; the mode sees the copies and that operator."""
    with mode:
        return function.py_kernels[torch._C.DispatchKey.CompositeExplicitAutograd](*args, **kwargs)


def views(function: Any) -> bool:
    """Whether an operator declares that a result lies in an argument's memory.

    One that returns its argument without saying so has written it: there is work to replay.
    """
    return any(result.alias_info is not None for result in function._schema.returns)


def is_empty(tensor: Tensor) -> bool:
    """Whether a tensor has no memory, so that its address says nothing.

    Operators that write caches behind the dispatcher return such tensors to order themselves.
    """
    return tensor.untyped_storage().nbytes() == 0


def tensor_leaves(values: Any) -> list[Tensor]:
    """The tensors among the leaves of nested arguments."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def bytes_of(tensor: Tensor) -> Tensor:
    """The whole storage of a tensor as bytes."""
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return flat.set_(tensor.untyped_storage())


def poison(memory: Tensor) -> None:
    """NaN in floats, the lowest number in integers; truth values stay."""
    if memory.is_floating_point() or memory.is_complex():
        memory.fill_(float("nan"))
    elif memory.dtype != torch.bool:
        memory.fill_(torch.iinfo(memory.dtype).min)


def replay_call(call: RecordedCall, memory: Memory) -> None:
    """Run one call and put its results where the capture put them.

    Raises:
        CaptureError: `dynamic_shape` where a result has another shape than at the capture.
    """
    args, kwargs = tree_map(memory.resolve, (call.args, dict(call.kwargs)))
    leaves = tree_leaves(call.function(*args, **kwargs))
    if call.function.namespace == "_c10d_functional":
        # What is recorded as waiting waits for the fixed memory, which no communication knows.
        leaves = [torch.ops._c10d_functional.wait_tensor(leaf) for leaf in leaves]
    for index, fixed in call.results:
        if leaves[index].shape != fixed.shape:
            raise fault_error("dynamic_shape", name_of(call.function))
        fixed.copy_(leaves[index])
