"""Whether tensors still hold what a compiled graph took from them.

A version counts no writes through `Tensor.data`, by fused optimizers, NumPy, DLPack or a storage,
so that on the CPU the bits themselves are compared. On other devices the host would wait for that:
there storages, addresses and versions are compared, and `ascend_passes.refresh` is for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ascend_passes.ir.trace import unobserved

JOINED_LIMIT = 16384
"""Elements up to which tensors are compared together: one call for many costs less than their
copy."""
WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)
"""Types that bits are compared as, the fastest first."""
Check = Callable[[Sequence[Tensor]], bool]


class Snapshot:
    """What tensors hold now; keeps none of them alive."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        kinds: dict[Any, list[int]] = {}
        for index, tensor in enumerate(tensors):
            kinds.setdefault(comparison_kind(tensor, index), []).append(index)
        with unobserved():
            self.checks = [comparison(name, indices, tensors) for name, indices in kinds.items()]

    def matches(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the tensors, in the order of the first, hold the same bits as then."""
        with unobserved():
            return all(check(tensors) for check in self.checks)


def comparison_kind(tensor: Tensor, index: int) -> tuple[Any, ...]:
    """How a tensor is compared; tensors of one kind are compared together."""
    if tensor.device.type != "cpu":
        return ("identity",)
    joined = tensor.dim() in (1, 2) and tensor.numel() <= JOINED_LIMIT and tensor.is_contiguous()
    return ("joined", tensor.dtype, tensor.shape[1:]) if joined else ("single", index)


def comparison(kind: tuple[Any, ...], indices: Sequence[int], tensors: Sequence[Tensor]) -> Check:
    """A function that compares tensors of one kind with what they are now."""
    if kind[0] == "identity":
        return same_identities(indices, tensors)
    if kind[0] == "joined":
        joined = words(torch.cat([tensors[index] for index in indices]))
        return lambda now: alike(words(torch.cat([now[index] for index in indices])), joined)
    (only,) = indices
    kept = words(tensors[only]).clone()
    return lambda now: alike(words(now[only]), kept)


def same_identities(indices: Sequence[int], tensors: Sequence[Tensor]) -> Check:
    """A function that tells whether storages, addresses and versions are as they are now.

    The storages are referred to weakly, so that a new one cannot come in the place of an old one.
    """
    references = [StorageWeakRef(tensors[index].untyped_storage()) for index in indices]
    known = [tensor_identity(tensors[index]) for index in indices]

    def same(now: Sequence[Tensor]) -> bool:
        return bool(references) and [tensor_identity(now[index]) for index in indices] == known

    return same


def tensor_identity(tensor: Tensor) -> tuple[int, int, int]:
    """A tensor's storage, address and version."""
    return tensor.untyped_storage()._cdata, tensor.data_ptr(), tensor._version


def storage_address(tensor: Tensor) -> int:
    """Where the memory of a tensor begins; 0 for one without."""
    return tensor.untyped_storage().data_ptr()


def words(tensor: Tensor) -> Tensor:
    """The bits of a tensor as whole numbers."""
    flat = tensor.detach().contiguous().reshape(-1)
    start, size = flat.storage_offset() * flat.element_size(), flat.nbytes
    return flat.view(next(w for w in WORDS if start % w.itemsize == 0 == size % w.itemsize))


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two results of `words` are equal."""
    return one.dtype == other.dtype and torch.equal(one, other)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits; NaNs may be equal, and -0.0 is not 0.0.

    The host waits for tensors on another device.
    """
    with unobserved():
        a, b = words(one), words(other)
        if a.dtype != b.dtype:  # one begins at an odd address
            a, b = a.view(torch.uint8), b.view(torch.uint8)
        return torch.equal(a, b)


def all_zero(tensor: Tensor) -> bool:
    """Whether no bit of a tensor is set; -0.0 has one."""
    with unobserved():
        return not bool(words(tensor).any())


def comparable(tensor: Tensor | None) -> bool:
    """Whether there is a tensor, with bits of its own that can be read and a version."""
    return (
        tensor is not None
        and not is_traceable_wrapper_subclass(tensor)
        and tensor.layout == torch.strided
        and tensor.device.type != "meta"
        and not (tensor.is_inference() or tensor.is_quantized)
        and not (tensor.is_conj() or tensor.is_neg())
    )
