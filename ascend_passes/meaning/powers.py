"""On which power of which tensor a factor depends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx

Values = Mapping[fx.Node, Tensor]
Ask = Callable[[Values], Tensor]
"""A factor, for values of the tensors that a piece reads."""
MULTIPLES = (2.0, -2.0)
"""What a tensor is multiplied by."""


def powers_of(ask: Ask, given: Values, tensors: Sequence[fx.Node]) -> dict[fx.Node, int] | None:
    """The power, 1 or -1, of each tensor that a factor is proportional to; None where it depends on
    one in another way.

    Each tensor is multiplied in turn, and a factor that is proportional to it is multiplied as
    well; by a negative number too, since a magnitude is proportional to positive ones alone.
    """
    found, plain = {}, ask(given)
    for tensor in tensors:
        ratios = [ask({**given, tensor: given[tensor] * times}) / plain for times in MULTIPLES]
        power = next((power for power in (0, 1, -1) if are_powers(ratios, power)), None)
        if power is None:
            return None
        if power:
            found[tensor] = power
    return found


def are_powers(ratios: Sequence[Tensor], power: int) -> bool:
    """Whether ratios are those of a factor that has a tensor to this power."""
    return all(
        torch.allclose(ratio, torch.full_like(ratio, times**power), rtol=1e-9, atol=0)
        for ratio, times in zip(ratios, MULTIPLES, strict=True)
    )


def product_of_powers(given: Sequence[Tensor], powers: Sequence[int], number: float) -> Tensor:
    """`number` times the tensors, each to its power, in float32 and one-dimensional."""
    total: Tensor | None = None
    for tensor, power in zip(given, powers, strict=True):
        wide = tensor.reshape(-1).to(torch.float32)
        wide = wide if power > 0 else 1 / wide
        total = wide if total is None else total * wide
    assert total is not None
    return total if number == 1.0 else total * number
