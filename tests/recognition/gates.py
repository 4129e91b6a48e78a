"""Gated activations composed of an activation and the way in which both factors come."""

from __future__ import annotations

import torch
from torch.nn import functional

SILU = {
    "silu": functional.silu,
    "g*sigmoid": lambda g: g * torch.sigmoid(g),
    "sigmoid*g": lambda g: torch.sigmoid(g) * g,
    "g/(1+exp)": lambda g: g / (1 + torch.exp(-g)),
    "reciprocal": lambda g: g * (1 + torch.exp(-g)).reciprocal(),
    "tanh": lambda g: 0.5 * g * (1 + torch.tanh(0.5 * g)),
    "beta": lambda g: g * torch.sigmoid(1.0 * g),
    "wide": lambda g: functional.silu(g.float()).to(g.dtype),
}
GELU = {
    "gelu": functional.gelu,
    "erf": lambda g: g * 0.5 * (1 + torch.erf(g / 2**0.5)),
    "tanh gelu": lambda g: functional.gelu(g, approximate="tanh"),
    "spelled tanh": lambda g: (
        0.5 * g * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (g + 0.044715 * g.pow(3))))
    ),
}
WRONG = {
    "sigmoid": torch.sigmoid,
    "quick": lambda g: g * torch.sigmoid(1.702 * g),
    "tanh": torch.tanh,
    "square": lambda g: functional.silu(g) * g,
}
"""Activations of no operator."""
PACKED = {
    "chunk": lambda p: p.chunk(2, -1),
    "slices": lambda p: (p[..., : p.shape[-1] // 2], p[..., p.shape[-1] // 2 :]),
    "view": lambda p: p.view(*p.shape[:-1], 2, -1).unbind(-2),
    "swapped": lambda p: p.chunk(2, -1)[::-1],
    "pairs": lambda p: (p[..., ::2], p[..., 1::2]),
}
"""Gate and other factor of one projection."""


def packed(part, activation):
    """A gated activation of one projection."""

    def spelling(p):
        gate, up = part(p)
        return activation(gate) * up

    return spelling


def apart(activation):
    """A gated activation of two projections."""
    return lambda gate, up: up * activation(gate)
