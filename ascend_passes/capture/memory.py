"""The recorder's memory: tensors as a device graph knows them, by address and not by object."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ascend_passes.capture.fault import failure


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


def address(tensor: Tensor) -> int:
    """Where the storage of a tensor begins."""
    return tensor.untyped_storage().data_ptr()


class Memory:
    """Inputs by weak reference and address, and everything made inside the capture."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self._inputs = [weakref.ref(tensor) for tensor in inputs]
        self._addresses = [address(tensor) for tensor in inputs]
        self._blocks = {where: block for block, where in enumerate(self._addresses) if where}
        self._owned: dict[int, Tensor] = {}

    def knows(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in an input or in something made inside the capture."""
        where = address(tensor)
        return not where or where in self._blocks or where in self._owned

    def own(self, tensor: Tensor) -> None:
        """Take in a result; it stays alive and in place as long as the graph."""
        self._owned.setdefault(address(tensor), tensor)

    def is_input(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in the memory of an input."""
        return address(tensor) in self._blocks

    def refer(self, value: Any, operator: str) -> Any:
        """What a call keeps of an argument: a region for inputs, the object for everything else.

        Raises:
            CaptureError: `undeclared_memory`.
        """
        if not isinstance(value, Tensor):
            return value
        where = address(value)
        if where in self._owned or not where:
            return value
        if where not in self._blocks:
            shape = "x".join(map(str, value.shape)) or "scalar"
            raise failure("undeclared_memory", operator, f"{shape} {value.dtype}")
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
        tensor = self.input(value.block)
        region = torch.empty(0, dtype=value.dtype, device=tensor.device)
        return region.set_(tensor.untyped_storage(), value.offset, value.size, value.stride)

    def input(self, block: int) -> Tensor:
        """An input that is still there and where it was; errors as in `resolve`."""
        tensor = self._inputs[block]()
        if tensor is None:
            raise failure("freed_input", detail=f"input {block}")
        if address(tensor) != self._addresses[block]:
            raise failure("moved_input", detail=f"input {block}")
        return tensor

    def check(self) -> None:
        """Look at every input, read or not; errors as in `resolve`."""
        for block in range(len(self._inputs)):
            self.input(block)
