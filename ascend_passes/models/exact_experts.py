"""Experts in float64, one token after the other: the yardstick for experts that run from int8.

Nothing of the way in which they run takes part: no order of experts, no packed product. The scale
that `quantize.largest_scale` documents is written out here again.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor

from ascend_passes.models.int8_experts import PACKED, SCALE, int8_experts


def experts_in_double(model: Any) -> None:
    """Let a float64 model compute its experts in float64; int8 weights are multiplied by their
    scales."""
    model.config._experts_implementation = "eager"  # torch's grouped product has no float64
    for _, experts in int8_experts(model):
        for name in PACKED:
            scales = getattr(experts, name + SCALE)
            setattr(experts, name + "_exact", getattr(experts, name).double() * scales.double())
        experts.forward = MethodType(token_by_token, experts)


def token_by_token(experts: Any, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of each token's experts; arguments as in `int8_experts_forward`."""
    total = torch.zeros_like(tokens)
    for token, row in enumerate(tokens):
        for expert, weight in zip(chosen[token].tolist(), weights[token], strict=True):
            inner = experts.gate_up_proj_exact[expert] @ as_int8(row)
            gate, up = inner.split(len(inner) // 2)
            product = experts.down_proj_exact[expert] @ as_int8(experts.act_fn(gate) * up)
            total[token] += weight * product
    return total


def as_int8(row: Tensor) -> Tensor:
    """A row as int8 numbers would have it: multiples of its largest magnitude over 127."""
    step = torch.linalg.vector_norm(row, torch.inf) / 127
    return row if step == 0 else torch.round(row / step) * step
