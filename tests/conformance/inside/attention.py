"""Operators of the wheel's own that the tests' graphs reach, computed on the CPU.

torch_npu turns `scaled_dot_product_attention` into `npu_fusion_attention_v3`; a decode step of a
serving engine calls `npu_fused_infer_attention_score`; AOTAutograd and npugraph_ex make variants of
such operators that return copies or write into given memory. We leave attention as it is, so none
of them is ours to declare. Masks follow CANN's convention: True hides a position.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu import cache

LEFT_UP_CAUSAL, RIGHT_DOWN_CAUSAL = 2, 3
"""Sparse modes whose mask follows from the sizes; the 2048 x 2048 mask beside them is not read."""


def hidden(mode: int, mask: Tensor | None, rows: int, columns: int) -> Tensor | None:
    """The mask that a sparse mode stands for, (rows, columns) or what broadcasts to it."""
    if mode == LEFT_UP_CAUSAL:
        return torch.ones(rows, columns, dtype=torch.bool).triu(1)
    if mode == RIGHT_DOWN_CAUSAL:
        return torch.ones(rows, columns, dtype=torch.bool).triu(1 + columns - rows)
    assert mode == 0, f"the stand-in has no sparse mode {mode}"
    return None if mask is None else mask.bool()


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Attention over (batch, heads, tokens, size) with grouped key heads, computed in fp32."""
    group = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(group, dim=1).float() for t in (key, value))
    scores = query.float() @ key.mT * scale
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    return (scores.softmax(-1) @ value).to(query.dtype)


def npu_fusion_attention_v3(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    *others: Any,
    sparse_mode: int = 0,
    **more: Any,
) -> tuple[Tensor, ...]:
    """(attention, softmax maximum, softmax sum, softmax, seed, offset); the last five are empty."""
    assert input_layout == "BNSD" and pse is None and padding_mask is None and keep_prob == 1.0
    mode = others[6] if len(others) > 6 else sparse_mode
    mask = hidden(mode, atten_mask, query.shape[2], key.shape[2])
    empty = torch.empty(0)
    return attend(query, key, value, scale, mask), *(empty.clone() for _ in range(5))


def npu_fused_infer_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    actual_seq_lengths_kv: list[int] | None = None,
    num_heads: int = 1,
    scale: float = 1.0,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    **more: Any,
) -> tuple[Tensor, Tensor]:
    """(attention, softmax sum): dense keys, each sequence to its own length; the sum is empty."""
    assert input_layout == "BNSD", f"the stand-in has no layout {input_layout}"
    mask = None
    if actual_seq_lengths_kv is not None:
        lengths = torch.tensor(actual_seq_lengths_kv).view(-1, 1, 1, 1)
        mask = torch.arange(key.shape[2]).view(1, 1, 1, -1) >= lengths
    return attend(query, key, value, scale, mask), torch.empty(0)


def into_given(
    *args: Any, workspace: Tensor | None = None, out: list[Tensor], **kwargs: Any
) -> Any:
    """`npu_fused_infer_attention_score` into given memory, as npugraph_ex calls it to update it."""
    out[0].copy_(npu_fused_infer_attention_score(*args, **kwargs)[0])
    return tuple(out)


def workspace(*args: Any, **kwargs: Any) -> Tensor:
    """Scratch memory for the largest call; the CPU needs none."""
    return torch.empty(1)


def scattered(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """`npu_scatter_pa_kv_cache` into copies of the caches, as AOTAutograd asks for it."""
    caches = key_cache.clone(), value_cache.clone()
    cache.scatter_pa_kv_cache(key, value, *caches, slots, **kwargs)
    return caches


def cast(input: Tensor, dtype: torch.dtype) -> Tensor:
    """`to`, which torch_npu spells as an operator of its own."""
    return input.to(dtype)


REFERENCES = {
    "npu::npu_dtype_cast": cast,
    "npu::_npu_dtype_cast": cast,
    "npu::npu_fusion_attention_v3": npu_fusion_attention_v3,
    "npu::npu_fused_infer_attention_score": npu_fused_infer_attention_score,
    "npu::npu_fused_infer_attention_score.out": into_given,
    "npu::_npu_fused_infer_attention_score_get_max_workspace": workspace,
    "npu::npu_scatter_pa_kv_cache_functional": scattered,
}
