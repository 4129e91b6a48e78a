"""Copies of inputs that share memory among each other as the originals do."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def copied(tree: Any) -> Any:
    """A deep copy: one new storage for each old one, one new tensor for each old one."""
    storages: dict[int, torch.UntypedStorage] = {}
    tensors: dict[int, Any] = {}

    def one(leaf: Any) -> Any:
        if isinstance(leaf, nn.Module):
            return copy.deepcopy(leaf)
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in tensors:
            tensors[id(leaf)] = copied_tensor(leaf, storages)
        return tensors[id(leaf)]

    with torch.no_grad():
        return pytree.tree_map(one, tree)


def copied_tensor(tensor: Tensor, storages: dict[int, torch.UntypedStorage]) -> Tensor:
    """A leaf with the same layout in the copy of the same storage."""
    if not is_plain(tensor):
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)
    old = tensor.untyped_storage()
    new = storages.setdefault(old._cdata, old.clone())
    fresh = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    fresh.set_(new, tensor.storage_offset(), tensor.shape, tensor.stride())
    fresh = fresh.conj() if tensor.is_conj() else fresh
    fresh = torch._neg_view(fresh) if tensor.is_neg() else fresh
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(fresh, requires_grad=tensor.requires_grad)
    return fresh.detach().requires_grad_(tensor.requires_grad)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a strided view of a storage that holds its values."""
    return (
        tensor.layout == torch.strided
        and not tensor.is_quantized
        and not tensor.is_nested
        and type(tensor) in (Tensor, nn.Parameter)
    )
