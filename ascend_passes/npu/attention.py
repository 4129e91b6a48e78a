"""Attention of a decode step: the query heads that share a key head are rows which read its keys
and values once.

An operator of our own, for CUDA: CANN has `npu_fused_infer_attention_score` for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.operator import (
    HALVES,
    OWN,
    Arguments,
    Conditions,
    Operator,
    all_of,
    empty,
    require,
    require_dtype,
    require_shape,
)

HEAD_SIZES = (64, 128, 256)
"""Columns of a head that the kernel takes: what its matrix unit multiplies whole."""
MOST_ROWS = 64
"""Query rows of a key head that a program holds."""


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Softmax of scores times values, in float32, rounded once.

    Args:
        query: `[B, H, G, D]`, float16 or bfloat16: the G rows that share a key head.
        key: `[B, H, L, D]`, of any strides but the last.
        value: likewise.
        mask: what broadcasts to `[B, H, G, L]`: bool, where True counts, or a float that is added
            to the scores.
        lengths: int32 `[B]`, how many keys of a sequence count; all where it is absent.
        scale: of the scores; `1 / sqrt(D)` where it is absent.

    Returns:
        `[B, H, G, D]`, contiguous; zeros where nothing counts, as torch has it.
    """
    factor = scale_of(query, scale)
    scores = torch.matmul(query.float(), key.float().mT) * factor
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask.float()
    elif mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if lengths is not None:
        place = torch.arange(key.shape[2], device=key.device)
        scores = scores.masked_fill(place >= lengths.view(-1, 1, 1, 1), float("-inf"))
    nothing = (scores == float("-inf")).all(-1, keepdim=True)
    weights = torch.softmax(scores, -1).masked_fill(nothing, 0.0)
    return torch.matmul(weights, value.float()).to(query.dtype).contiguous()


def scale_of(query: Tensor, scale: float | None) -> float:
    """What scores are multiplied by."""
    return float(query.shape[-1] ** -0.5) if scale is None else scale


def fake_decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Shaped like the query."""
    return empty(query, query.shape)


def decode_attention_limits(arguments: Arguments, soc: str) -> Conditions:
    """One half precision; 64 rows of a key head at most; keys and values whose heads are dense."""
    query, key, value = (arguments[name] for name in ("query", "key", "value"))
    yield require_dtype("query", query, HALVES)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        yield require_dtype(name, tensor, (query.dtype,))
        yield tensor.dim() == 4, f"{name} has {tensor.dim()} dims but must have 4"
    if any(tensor.dim() != 4 for tensor in (query, key, value)):
        return
    batch, heads, rows, size = query.shape
    known = any(require(size == one, "")[0] for one in HEAD_SIZES)
    yield known, f"the head size is {size} but must be one of {', '.join(map(str, HEAD_SIZES))}"
    yield require(rows <= MOST_ROWS, f"{rows} rows share a key head, over {MOST_ROWS}")
    # There are as many values as keys, though a graph may have two symbols for it: calls ask.
    for name, tensor in (("key", key), ("value", value)):
        shape = (batch, heads, tensor.shape[2], size)
        yield require_shape(name, tensor, shape, "the heads of the query")
        yield require(tensor.stride(-1) == 1, f"the columns of {name} do not lie side by side")
    yield from mask_limits(arguments["mask"], query.dtype, (batch, heads, rows, key.shape[2]))
    lengths = arguments["lengths"]
    if lengths is not None:
        yield require_dtype("lengths", lengths, (torch.int32,))
        yield require_shape("lengths", lengths, (batch,), "one a sequence")


def mask_limits(mask: Tensor | None, dtype: torch.dtype, shape: tuple[Any, ...]) -> Conditions:
    """Bool, or a float; broadcast to the scores."""
    if mask is None:
        return
    yield require_dtype("mask", mask, (torch.bool, dtype, torch.float32))
    fits = mask.dim() == 4 and all_of(
        require(found == wanted, "")[0] or require(found == 1, "")[0]
        for found, wanted in zip(mask.shape, shape, strict=True)
    )
    yield fits, f"mask has shape {list(mask.shape)}, which does not broadcast to {list(shape)}"


def attention_example(
    source: torch.Generator, rows: int, width: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Sequences of two key heads with `width` keys each, of which some count."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source).to(dtype)

    size = HEAD_SIZES[0]
    return {
        "query": drawn(rows, 2, 3, size),
        "key": drawn(rows, 2, width, size),
        "value": drawn(rows, 2, width, size),
        "mask": drawn(rows, 1, 1, width),
        "lengths": torch.randint(1, width + 1, (rows,), generator=source, dtype=torch.int32),
    }


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "decode_attention",
        "decode_attention(Tensor query, Tensor key, Tensor value, Tensor? mask=None,"
        " Tensor? lengths=None, float? scale=None) -> Tensor",
        fake_decode_attention,
        decode_attention,
        decode_attention_limits,
        "our kernel, `ascend_passes/npu/kernels/attention.py`",
        namespace=OWN,
        accuracy="half a unit in the last place, and 2^-19 of the weighted magnitudes; the kernel"
        " rounds the weights to the values' dtype, so a unit of the largest weighted magnitude",
        example=attention_example,
    ),
)
