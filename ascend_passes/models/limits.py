"""What a compiled model may differ by: relative errors of logits, root mean square."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

EXACT = 1e-9
"""Largest error of the rewritten graphs in float64: sums in another order are at 1e-15, an epsilon
of 1e-5 in place of 1e-6 or a gain that is 1 percent off are above 1e-4."""
NO_WORSE = 1.1
"""A compiled model is no worse where its error is at most this many times the eager model's.

Both round at about as many places, so that their errors differ by chance by a few percent.
"""
FLOAT: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.float32: 2e-5, torch.float16: 0.02, torch.bfloat16: 0.05}
)
"""float32 carries 24 bits, float16 11 and bfloat16 8; all lose a few through the layers."""
W8A8 = 0.1
"""Roundings of int8 activations flip, of which one step is 1/127 of a row's largest value."""


def limit_of(dtype: torch.dtype, quantized: bool) -> float:
    """The accepted error of a model's logits from float64; it is too wide to tell a wrong formula,
    which `EXACT` does."""
    return W8A8 if quantized else FLOAT[dtype]
