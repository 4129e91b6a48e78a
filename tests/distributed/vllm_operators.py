"""vLLM's collective operators and the table of its groups, over torch's own: vLLM is not needed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor

GROUP = "tp:0"
"""The name that vLLM gives its first tensor-parallel group; torch knows none of this name."""
LIBRARY = torch.library.Library("vllm", "FRAGMENT")


def all_reduce(tensor: Tensor, group_name: str) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def reduce_scatter(tensor: Tensor, dim: int, world_size: int, group_name: str) -> Tensor:
    assert dim == 0
    rows = tensor.new_empty((tensor.shape[0] // world_size, *tensor.shape[1:]))
    dist.reduce_scatter_tensor(rows, tensor.contiguous())
    return rows


def all_gather(tensor: Tensor, dim: int, world_size: int, group_name: str) -> Tensor:
    assert dim == 0
    whole = tensor.new_empty((tensor.shape[0] * world_size, *tensor.shape[1:]))
    dist.all_gather_into_tensor(whole, tensor.contiguous())
    return whole


def fake_reduce_scatter(tensor: Tensor, dim: int, world_size: int, group_name: str) -> Tensor:
    return tensor.new_empty((tensor.shape[0] // world_size, *tensor.shape[1:]))


def fake_all_gather(tensor: Tensor, dim: int, world_size: int, group_name: str) -> Tensor:
    return tensor.new_empty((tensor.shape[0] * world_size, *tensor.shape[1:]))


def install() -> None:
    """Define the operators as vLLM 0.32 declares them, and name the world as its group."""
    rows = "Tensor tensor, int dim, int world_size, str group_name"
    LIBRARY.define("all_reduce(Tensor tensor, str group_name) -> Tensor")
    LIBRARY.define(f"reduce_scatter({rows}) -> Tensor")
    LIBRARY.define(f"all_gather({rows}) -> Tensor")
    for kernel in (all_reduce, reduce_scatter, all_gather):
        LIBRARY.impl(kernel.__name__, kernel, "CPU")
    torch.library.register_fake("vllm::all_reduce", lambda x, _: torch.empty_like(x), lib=LIBRARY)
    torch.library.register_fake("vllm::reduce_scatter", fake_reduce_scatter, lib=LIBRARY)
    torch.library.register_fake("vllm::all_gather", fake_all_gather, lib=LIBRARY)
    ranks = list(range(dist.get_world_size()))
    group = SimpleNamespace(
        world_size=len(ranks),
        rank_in_group=dist.get_rank(),
        ranks=ranks,
        device_group=dist.group.WORLD,
    )
    state = ModuleType("vllm.distributed.parallel_state")
    state._groups = {GROUP: lambda: group}
    sys.modules["vllm.distributed.parallel_state"] = state
