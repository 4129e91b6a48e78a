"""Random values for the inputs of a graph that is checked while it is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import value
from ascend_passes.verify.exact import wide

ZERO_POINTS = 20
"""Largest magnitude of sampled int32 values, which are zero points and biases of int8 rows."""


def sample(node: fx.Node, constants: Mapping[str, Tensor], source: torch.Generator) -> Any:
    """A float64 value for a node, or one of its own dtype where that does not float.

    A parameter's or buffer's own content; elsewhere normal values with a mean of a half, since
    gains of 1 would hide a lost factor, and the whole range of int8. Integers that may index count
    along their last dim, so that they are distinct and in bounds wherever rows are. Symbolic sizes
    are those of the example.

    Args:
        node: its `meta["val"]` tells shape and dtype.
        constants: placeholder -> the real tensor behind it.
        source: of the random numbers.
    """
    fake = value(node)
    if not isinstance(fake, Tensor):
        return number(fake)
    known = constants.get(str(node.target)) if node.op == "placeholder" else None
    if known is not None:
        return known.detach().to("cpu", wide(known.dtype), copy=True)
    return drawn([number(size) for size in fake.shape], fake.dtype, source)


def number(size: Any) -> Any:
    """The number that a symbolic size or scalar has in the example; others are their own."""
    if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return size.node.hint
    return size


def drawn(shape: list[int], dtype: torch.dtype, source: torch.Generator) -> Tensor:
    """Random values of a dtype's kind; floating ones are float64 or complex128."""
    if dtype.is_complex:
        return torch.polar(torch.ones(shape).double(), normal(shape, source))
    if dtype.is_floating_point:
        return normal(shape, source) + 0.5
    if dtype == torch.bool:
        return torch.rand(shape, generator=source) < 0.5
    if dtype == torch.int8:
        return torch.randint(-127, 128, shape, generator=source).to(dtype)
    if dtype == torch.int32:
        return torch.randint(-ZERO_POINTS, ZERO_POINTS + 1, shape, generator=source).to(dtype)
    if not shape:
        return torch.zeros(shape, dtype=dtype)
    return torch.arange(shape[-1]).to(dtype).expand(shape).contiguous()


def normal(shape: list[int], source: torch.Generator) -> Tensor:
    """Normal float64 values."""
    return torch.randn(shape, generator=source, dtype=torch.float64)
