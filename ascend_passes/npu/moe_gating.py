"""The choice of experts: a softmax of logits and its largest values; float32 inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.accuracy import ONE_ROUNDING, ULP, Bound, halves
from ascend_passes.npu.operator import (
    A2,
    A3,
    FLOATS,
    Arguments,
    Conditions,
    Operator,
    empty,
    is_soc,
    require,
    require_absent,
    require_dtype,
)

MOST_CHOSEN = 1024
"""Largest k of the choice, by its documentation."""
SOFTMAX = 8.0
"""ULP of float32 for logits within 8 of the row's largest: the difference is rounded before its
exponential, whose sum and quotient are float32 too."""


def gating_top_k_softmax(
    x: Tensor, finished: Tensor | None = None, k: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """(k largest values of the softmax, their experts, numbers of the slots), each [..., k].

    Of logits [..., E], float32 inside; the largest comes first, in x's dtype. Slots are numbered
    column by column.

    Raises:
        NotImplementedError: rows that are finished.
    """
    if finished is not None:
        raise NotImplementedError("npu_moe_gating_top_k_softmax: finished rows have no reference")
    y, experts = x.float().softmax(-1).topk(k, -1)
    rows = x.shape[:-1].numel()
    slots = torch.arange(rows * k, dtype=torch.int32, device=x.device).view(k, rows)
    return y.to(x.dtype), experts.to(torch.int32), slots.T.reshape(y.shape).contiguous()


def fake_gating_top_k_softmax(
    x: Tensor, finished: Tensor | None = None, k: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Three of x's shape with k columns."""
    shape = (*x.shape[:-1], k)
    return empty(x, shape), empty(x, shape, torch.int32), empty(x, shape, torch.int32)


def gating_top_k_softmax_limits(arguments: Arguments, soc: str) -> Conditions:
    """A2 and A3: floating logits of 2 or 3 dims, k of at most their columns and 1024."""
    x, k = arguments["x"], arguments["k"]
    yield is_soc(soc, A2, A3), f"the limits on {soc} are not known here"
    yield require_dtype("x", x, FLOATS)
    yield x.dim() in (2, 3), f"x has {x.dim()} dims but must have 2 or 3"
    yield require_absent("finished", arguments["finished"], "has no reference here")
    yield 0 < k <= MOST_CHOSEN, f"k is {k} but must be 1 to {MOST_CHOSEN}"
    if x.dim():
        yield require(k <= x.shape[-1], f"k is {k} but x has {x.shape[-1]} columns")


def gating_example(
    source: torch.Generator, rows: int, width: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Logits of as many experts as there are columns, of which a half are chosen."""
    return {"x": torch.randn(rows, 2 * width, generator=source).to(dtype), "k": width}


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_moe_gating_top_k_softmax",
        "npu_moe_gating_top_k_softmax(Tensor x, Tensor? finished=None, int k=1)"
        " -> (Tensor, Tensor, Tensor)",
        fake_gating_top_k_softmax,
        gating_top_k_softmax,
        gating_top_k_softmax_limits,
        "torch_npu.npu_moe_gating_top_k_softmax; aclnnMoeGatingTopKSoftmax",
        accuracy=(Bound("y", ULP, halves(ONE_ROUNDING, SOFTMAX)),),
        example=gating_example,
        converter="MoeGatingTopKSoftmax",
    ),
)
