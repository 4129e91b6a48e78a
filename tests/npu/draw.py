"""Random operands: hypothesis draws shapes and a seed, so a failure prints both and repeats."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32)

seeds = st.integers(0, 2**31)
halves = st.sampled_from(HALVES)
floats = st.sampled_from(FLOATS)
epsilons = st.sampled_from((1e-6, 1e-5, 0.5))
tokens = st.integers(0, 9)


def generator(seed: int) -> torch.Generator:
    """The source of one test's numbers."""
    return torch.Generator().manual_seed(seed)


def normal(source: torch.Generator, *shape: int, dtype: torch.dtype, spread: float = 1.0) -> Tensor:
    """Normal numbers; every second tensor is a non-contiguous view."""
    if len(shape) >= 2 and int(torch.randint(2, (), generator=source)):
        turned = torch.randn(*shape[:-2], shape[-1], shape[-2], generator=source)
        return (turned * spread).mT.to(dtype)
    return (torch.randn(*shape, generator=source) * spread).to(dtype)


def gains(source: torch.Generator, size: int, dtype: torch.dtype) -> Tensor:
    """Gains far from 1, of both signs."""
    return (3.0 * torch.randn(size, generator=source) - 2.0).to(dtype)


def integers(source: torch.Generator, *shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
    """Whole numbers over the whole range of int8."""
    return torch.randint(-128, 128, shape, generator=source).to(dtype)
