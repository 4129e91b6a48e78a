"""Runs an operator for real and with fake tensors, and compares what the two promise."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from ascend_passes import npu


def described(results: Any) -> list[tuple[Any, ...]]:
    """Shape, dtype and strides of each result, without the strides that no address depends on."""
    leaves = [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
    return [(tuple(leaf.shape), leaf.dtype, used_strides(leaf)) for leaf in leaves]


def used_strides(tensor: Tensor) -> list[int]:
    """The strides of the dims that have more than one element."""
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    return [stride for stride, size in pairs if size > 1 and tensor.numel()]


def call(name: str, *arguments: Any, **keywords: Any) -> Any:
    """The real results, after the fake ones were found to agree."""
    with FakeTensorMode() as mode:
        fakes = pytree.tree_map_only(Tensor, mode.from_tensor, (arguments, keywords))
        promised = described(npu.call(name, *fakes[0], **fakes[1]))
    results = npu.call(name, *arguments, **keywords)
    assert described(results) == promised, name
    assert all(t.device.type == "cpu" for t in pytree.tree_leaves(results) if t is not None)
    return results
