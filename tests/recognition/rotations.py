"""Rotations composed of the exchange of columns, the tables' form and the heads' layout."""

from __future__ import annotations

import torch

T, N, D = 5, 3, 16


def angles() -> torch.Tensor:
    """Angles of tokens by half columns, [T, D/2]."""
    return torch.outer(torch.arange(float(T)) + 1, 100.0 ** (-torch.arange(0, D, 2) / D))


def halves(x, cos, sin):
    """cos and sin of whole heads."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def rolled(x, cos, sin):
    """As `halves`, by a roll and signs."""
    signs = torch.cat((-torch.ones(D // 2), torch.ones(D // 2))).to(x.dtype)
    return x * cos + torch.roll(x, D // 2, -1) * signs * sin


def by_parts(x, cos, sin):
    """cos and sin of half columns."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def added(x, cos, sin):
    """As `by_parts`, with addcmul."""
    a, b = x.chunk(2, -1)
    return torch.cat((torch.addcmul(a * cos, b, -sin), torch.addcmul(b * cos, a, sin)), -1)


def stacked(x, cos, sin):
    """Neighbouring columns, cos and sin of half columns."""
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


def sorted_first(x, cos, sin):
    """Neighbouring columns in, halves out, as DeepSeek's; cos and sin of half columns."""
    a, b = x[..., ::2], x[..., 1::2]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def backwards(x, cos, sin):
    """The other sign, as in a rotation back."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((b, -a), -1) * sin


def complex_pairs(x, factor):
    """Neighbouring columns as complex numbers."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * factor).flatten(-2).type_as(x)


WHOLE = {"halves": halves, "rolled": rolled, "backwards": backwards}
HALF = {"by_parts": by_parts, "added": added, "stacked": stacked, "sorted_first": sorted_first}
PLACES = {
    "tokens": ((T, N, D), lambda t: t[:, None]),
    "sequences": ((2, T, N, D), lambda t: t[None, :, None]),
    "heads first": ((2, N, T, D), lambda t: t[None, None]),
}
"""Shape of the heads, and how a table [T, columns] is laid beside them."""
WRONG = {
    "mirror": lambda x, c, s: x * c + torch.cat(x.chunk(2, -1)[::-1], -1) * s,
    "squared": lambda x, c, s: halves(x * x, c, s),
    "one half": lambda x, c, s: torch.cat(
        (x[..., : D // 2] * c[..., : D // 2], x[..., D // 2 :]), -1
    ),
    "added to": lambda x, c, s: halves(x, c, s) + 1,
}
"""No rotations."""
