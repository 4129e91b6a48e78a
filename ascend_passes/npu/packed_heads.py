"""RMSNorm of query and key heads and their rotation, read from the packed rows of one projection.

CANN has no operator for it, so it has a namespace of its own: plain torch on a CPU, a Triton kernel
on CUDA, and the same kernel on an NPU where triton-ascend is installed. It rounds where
`npu_rms_norm` and `npu_rotary_mul` do, one after the other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.norm import EPSILON, rms_norm
from ascend_passes.npu.operator import (
    FLOATS,
    OWN,
    Arguments,
    Conditions,
    Operator,
    empty,
    require,
    require_dtype,
    require_shape,
)
from ascend_passes.npu.rotary import HALF, turned

HEAD_SIZES = (16, 32, 64, 128, 256)
"""Head sizes that the kernel takes: powers of two, whose halves a vector holds."""


def table_rows(table: Tensor) -> Any:
    """Rows of a table of cosines or sines, `[..., D]`."""
    return math.prod(table.shape[:-1])


def tokens_of(qkv: Tensor) -> Any:
    """Rows of the packed projection, `[..., W]`."""
    return math.prod(qkv.shape[:-1])


def qk_norm_rope(
    qkv: Tensor,
    query_gain: Tensor,
    key_gain: Tensor,
    cos: Tensor,
    sin: Tensor,
    query_heads: int,
    key_heads: int,
    epsilon: float = EPSILON,
) -> tuple[Tensor, Tensor]:
    """(query heads, key heads), normalized and rotated; in front of a row stand the query's, then
    the key's.

    Args:
        qkv: `[..., W]`, W at least `(query_heads + key_heads) * D`; what follows is not read, so
            that values stay a view.
        query_gain: `[D]` in the dtype of qkv, or float32.
        key_gain: likewise.
        cos: `[..., D]` with R rows, both halves of a head; token t takes row `t % R`.
        sin: likewise.
        query_heads: how many.
        key_heads: how many.
        epsilon: of both norms.

    Returns:
        `[..., query_heads, D]` and `[..., key_heads, D]`, contiguous, in the dtype of qkv.

    Raises:
        RuntimeError: R does not divide the tokens.
    """
    size = query_gain.shape[-1]
    widths = [query_heads * size, key_heads * size]
    angles = repeated_rows(cos, tokens_of(qkv)), repeated_rows(sin, tokens_of(qkv))
    query, key = (
        turned(rms_norm(part, gain, epsilon)[0], *angles, HALF).contiguous()
        for part, gain in zip(packed_parts(qkv, widths, size), (query_gain, key_gain), strict=True)
    )
    shape = qkv.shape[:-1]
    return query.reshape(*shape, query_heads, size), key.reshape(*shape, key_heads, size)


def packed_parts(qkv: Tensor, widths: list[int], size: int) -> list[Tensor]:
    """The first columns of each row as heads, `[tokens, heads, D]` for each width."""
    rows = qkv.reshape(-1, qkv.shape[-1])[:, : sum(widths)]
    return [part.unflatten(-1, (-1, size)) for part in rows.split(widths, -1)]


def repeated_rows(table: Tensor, tokens: int) -> Tensor:
    """A table's row for each token, `[tokens or 1, 1, D]`."""
    rows = table.reshape(-1, 1, table.shape[-1])
    return rows if rows.shape[0] in (1, tokens) else rows.repeat(tokens // rows.shape[0], 1, 1)


def fake_qk_norm_rope(
    qkv: Tensor,
    query_gain: Tensor,
    key_gain: Tensor,
    cos: Tensor,
    sin: Tensor,
    query_heads: int,
    key_heads: int,
    epsilon: float = EPSILON,
) -> tuple[Tensor, Tensor]:
    """The heads of each token."""
    shape, size = qkv.shape[:-1], query_gain.shape[-1]
    return empty(qkv, (*shape, query_heads, size)), empty(qkv, (*shape, key_heads, size))


def qk_norm_rope_limits(arguments: Arguments, soc: str) -> Conditions:
    """One dtype, but for float32 gains; a head size of 16 to 256; tables whose rows repeat."""
    qkv, cos, sin = (arguments[name] for name in ("qkv", "cos", "sin"))
    yield require_dtype("qkv", qkv, FLOATS)
    yield qkv.dim() > 1, f"qkv has {qkv.dim()} dims but must have 2 or more"
    size = arguments["query_gain"].shape[-1] if arguments["query_gain"].dim() else 0
    known = any(require(size == one, "")[0] for one in HEAD_SIZES)
    yield known, f"the head size is {size} but must be one of {', '.join(map(str, HEAD_SIZES))}"
    for name in ("query_gain", "key_gain"):
        gain = arguments[name]
        yield require_dtype(name, gain, (qkv.dtype, torch.float32))
        yield require_shape(name, gain, (size,), "one number a column of a head")
    counts = [arguments[name] for name in ("query_heads", "key_heads")]
    yield min(counts) > 0, f"there are {counts[0]} query heads and {counts[1]} key heads"
    if qkv.dim() > 1:
        needed = sum(counts) * size
        yield require(
            qkv.shape[-1] >= needed, f"qkv has {qkv.shape[-1]} columns, fewer than {needed}"
        )
    for name, table in (("cos", cos), ("sin", sin)):
        yield require_dtype(name, table, (qkv.dtype,))
        whole = table.dim() > 0 and require(table.shape[-1] == size, "")[0]
        yield whole, f"{name} has shape {list(table.shape)} but its last size must be {size}"
        if whole and qkv.dim() > 1:
            rows, tokens = table_rows(table), tokens_of(qkv)
            yield require(
                tokens % rows == 0, f"{rows} rows of {name} do not divide {tokens} tokens"
            )


def packed_example(
    source: torch.Generator, rows: int, width: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Two query heads and a key head of 16 columns, and `width` columns that are not read."""
    size = HEAD_SIZES[0]
    angle = 6 * torch.rand(rows, 1, size, generator=source)
    gains = (1 + 0.2 * torch.randn(2, size, generator=source)).to(dtype)
    return {
        "qkv": torch.randn(rows, 3 * size + width, generator=source).to(dtype),
        "query_gain": gains[0],
        "key_gain": gains[1],
        "cos": angle.cos().to(dtype),
        "sin": angle.sin().to(dtype),
        "query_heads": 2,
        "key_heads": 1,
    }


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "qk_norm_rope",
        "qk_norm_rope(Tensor qkv, Tensor query_gain, Tensor key_gain, Tensor cos, Tensor sin,"
        " int query_heads, int key_heads, float epsilon=1e-06) -> (Tensor, Tensor)",
        fake_qk_norm_rope,
        qk_norm_rope,
        qk_norm_rope_limits,
        "our kernel, `ascend_passes/npu/kernels/packed_heads.py`",
        namespace=OWN,
        accuracy="half a unit in the last place, beside what cosine and sine make of the bound of"
        " npu_rms_norm for both columns of a pair",
        example=packed_example,
    ),
)
