"""The recorder's memory: tensors as a device graph knows them, by address and not by object."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ascend_passes.capture.fault import fault_error
from ascend_passes.ir.content import storage_address


@dataclass(frozen=True)
class Reference:
    """A region of an input's memory; it does not keep the input alive."""

    block: int
    """Which input."""
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    """In elements of `dtype`, from the start of the input's storage."""
    dtype: torch.dtype


@dataclass(frozen=True)
class HeldInput:
    """An input's tensor and memory, neither of which this keeps alive.

    Memory outlives its tensor where another tensor lies in it, as after
    `load_state_dict(assign=True)` of a parameter's own memory.
    """

    tensor: weakref.ref[Tensor]
    storage: weakref.ref[torch.UntypedStorage]

    @classmethod
    def of(cls, tensor: Tensor) -> HeldInput:
        """A tensor as an input."""
        return cls(weakref.ref(tensor), weakref.ref(tensor.untyped_storage()))


class Memory:
    """Inputs by weak reference and address, and everything made inside the capture."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self._inputs = [HeldInput.of(tensor) for tensor in inputs]
        self._addresses = [storage_address(tensor) for tensor in inputs]
        self._blocks = {where: block for block, where in enumerate(self._addresses) if where}
        self._owned: dict[int, Tensor] = {}

    def knows(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in an input or in something made inside the capture."""
        where = storage_address(tensor)
        return not where or where in self._blocks or where in self._owned

    def own(self, tensor: Tensor) -> None:
        """Take in a result; it stays alive and in place as long as the graph."""
        self._owned.setdefault(storage_address(tensor), tensor)

    def is_input(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in the memory of an input."""
        return storage_address(tensor) in self._blocks

    def refer(self, value: Any, operator: str) -> Any:
        """What a call keeps of an argument: a region for inputs, the object for everything else.

        Raises:
            CaptureError: `undeclared_memory`.
        """
        if not isinstance(value, Tensor):
            return value
        where = storage_address(value)
        if where in self._owned or not where:
            return value
        if where not in self._blocks:
            shape = "x".join(map(str, value.shape)) or "scalar"
            raise fault_error("undeclared_memory", operator, f"{shape} {value.dtype}")
        return Reference(
            self._blocks[where],
            tuple(value.shape),
            value.stride(),
            int(value.storage_offset()),
            value.dtype,
        )

    def resolve(self, value: Any) -> Any:
        """The tensor at a region, looked up at replay.

        Raises:
            CaptureError: `freed_input` or `moved_input`.
        """
        if not isinstance(value, Reference):
            return value
        storage = self.input(value.block)
        region = torch.empty(0, dtype=value.dtype, device=storage.device)
        return region.set_(storage, value.offset, value.size, value.stride)

    def input(self, block: int) -> torch.UntypedStorage:
        """An input's memory that is still there and where it was; errors as in `resolve`."""
        one, where = self._inputs[block], self._addresses[block]
        tensor, storage = one.tensor(), one.storage()
        if tensor is not None and storage_address(tensor) != where:
            raise fault_error("moved_input", detail=f"input {block}")
        if storage is None:
            raise fault_error("freed_input", detail=f"input {block}")
        if storage.data_ptr() != where:
            raise fault_error("moved_input", detail=f"input {block}")
        return storage

    def check(self) -> None:
        """Look at every input, read or not; errors as in `resolve`."""
        for block in range(len(self._inputs)):
            self.input(block)

    def renew(self, inputs: Sequence[Any]) -> None:
        """Take tensors of a call that lie where freed inputs were; a device would not know."""
        freed = [block for block, one in enumerate(self._inputs) if one.storage() is None]
        if not freed:
            return
        now = {storage_address(tensor): tensor for tensor in inputs if isinstance(tensor, Tensor)}
        for block in freed:
            if self._addresses[block] in now:
                self._inputs[block] = HeldInput.of(now[self._addresses[block]])
