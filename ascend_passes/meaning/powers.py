"""On which power of which tensor a factor depends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx

Values = Mapping[fx.Node, Tensor]
Ask = Callable[[Values], Tensor]
"""A factor, for values of the tensors that a piece reads."""


def powers_of(ask: Ask, given: Values, tensors: Sequence[fx.Node]) -> dict[fx.Node, int] | None:
    """The power, 1 or -1, of each tensor that a factor is proportional to; None where it depends on
    one in another way.

    Each tensor is doubled in turn: a factor that is proportional to it doubles as well.
    """
    found, plain = {}, ask(given)
    for tensor in tensors:
        ratio = ask({**given, tensor: given[tensor] * 2}) / plain
        if torch.allclose(ratio, torch.ones_like(ratio), rtol=1e-9, atol=0):
            continue
        for power in (1, -1):
            if torch.allclose(ratio, torch.full_like(ratio, 2.0**power), rtol=1e-9, atol=0):
                found[tensor] = power
        if tensor not in found:
            return None
    return found


def product_of_powers(given: Sequence[Tensor], powers: Sequence[int], number: float) -> Tensor:
    """`number` times the tensors, each to its power, in float32 and one-dimensional."""
    total: Tensor | None = None
    for tensor, power in zip(given, powers, strict=True):
        wide = tensor.reshape(-1).to(torch.float32)
        wide = wide if power > 0 else 1 / wide
        total = wide if total is None else total * wide
    assert total is not None
    return total if number == 1.0 else total * number
