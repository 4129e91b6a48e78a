"""A small model of several layers, and its report."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

import ascend_passes
from ascend_passes import Report

H = 64
LAYERS = 3
HEADS = 4


class Norm(nn.Module):
    """RMSNorm as Hugging Face writes it."""

    def __init__(self, size: int = H) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Layer(nn.Module):
    """Norm, SwiGLU, residual add; the queries' norm has no residual."""

    def __init__(self, shares: bool) -> None:
        super().__init__()
        self.norm, self.q_norm = Norm(), Norm(H // HEADS)
        self.gate, self.up, self.down = (nn.Linear(H, H, bias=False) for _ in range(3))
        self.shares = shares

    def forward(self, x: Tensor) -> Tensor:
        heads = self.down(self.norm(x)).view(-1, HEADS, H // HEADS)
        y = self.q_norm(heads).view(-1, H)
        active = nn.functional.silu(self.gate(y)) * self.up(y)
        if self.shares:  # a second reader of a value inside, so that SwiGLU stays spelled out
            active = active + nn.functional.silu(self.gate(y))
        return x + active


class Stack(nn.Module):
    """Layers in a list, as models have them."""

    def __init__(self, shares: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(shares) for _ in range(LAYERS))
        self.norm = Norm()

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.ones(H).cumsum(0)  # from constants alone
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) + x  # so that rules that look for a sum look further


@functools.cache
def report(shares: bool = False, rows: int = 4) -> Report:
    """What became of a stack for some rows."""
    torch.manual_seed(0)
    found = ascend_passes.explain(Stack(shares).eval(), torch.randn(rows, H))
    assert not found.errors
    return found
