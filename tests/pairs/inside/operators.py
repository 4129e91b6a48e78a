"""CPU references of the operators that vllm-ascend's layers call and that are not ours to declare.

What each computes is from its documentation: float32 inside, one rounding at the end of each
result. They give a device of host memory its numbers and share no code with our passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.conformance.inside import attention

CAUSAL = 3
"""Sparse mode of attention where a token sees those before it, counted from the ends."""


def add_rms_norm_bias(
    x1: Tensor, x2: Tensor, gamma: Tensor, beta: Tensor | None = None, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """`_C_ascend::npu_add_rms_norm_bias`: (norm of the sum [+ beta], 1 / rms, sum)."""
    total = x1 + x2
    wide = total.float()
    rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    y = (wide * rstd * gamma.float()).to(total.dtype)
    return y if beta is None else y + beta, rstd, total


def matmul_allreduce_add_rmsnorm(
    x1: Tensor,
    x2: Tensor,
    residual: Tensor,
    gamma: Tensor,
    group: str,
    ranks: int,
    rank: int,
    epsilon: float,
    transposed: bool,
    gathered: bool,
) -> tuple[Tensor, Tensor]:
    """`_C_ascend::matmul_allreduce_add_rmsnorm`: (norm of the sum, sum); a rank that is not to
    gather the sum has its own rows of it alone, here none."""
    assert transposed, "vllm-ascend gives the weight as [N, K]"
    part = (x1.float() @ x2.float().T).to(x1.dtype).float()
    started = torch.ops._c10d_functional.all_reduce(part, "sum", group)
    total = torch.ops._c10d_functional.wait_tensor(started) + residual.float()
    rounded = total.to(x1.dtype)
    y, _, _ = add_rms_norm_bias(rounded, torch.zeros_like(rounded), gamma, None, epsilon)
    return y, rounded if gathered else torch.full_like(rounded, torch.nan)


def rotary_embedding(
    positions: Tensor,
    query: Tensor,
    key: Tensor,
    head_size: int,
    cos_sin_cache: Tensor,
    is_neox_style: bool,
) -> None:
    """`atb::_npu_rotary_embedding`: turns [T, heads * head_size] in place; halves pair up."""
    assert is_neox_style, "the stand-in has no other style"
    cosine, sine = cos_sin_cache[positions].float().unsqueeze(1).chunk(2, -1)
    for tensor in (query, key):
        first, second = tensor.float().unflatten(-1, (-1, head_size)).chunk(2, -1)
        turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
        tensor.copy_(turned.flatten(-2).to(tensor.dtype))


def qkv_rmsnorm_rope(
    input: Tensor,
    cos_sin_cache: Tensor,
    positions: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    q_hidden_size: int,
    kv_hidden_size: int,
    head_dim: int,
    eps: float,
    q_bias: Tensor | None = None,
    k_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`vllm::qkv_rmsnorm_rope`, a Triton kernel: splits, norms queries and keys by head, turns."""
    assert q_bias is None and k_bias is None, "the stand-in has no bias"
    query, key, value = input.split([q_hidden_size, kv_hidden_size, kv_hidden_size], -1)
    turned = []
    for tensor, weight in ((query, q_weight), (key, k_weight)):
        wide = tensor.float().unflatten(-1, (-1, head_dim))
        unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()
        turned.append(unit.to(tensor.dtype).flatten(-2))
    rotary_embedding(positions, *turned, head_dim, cos_sin_cache, True)
    return *turned, value.contiguous()


def fused_infer_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    block_table: Tensor | None = None,
    actual_seq_lengths: list[int] | None = None,
    actual_seq_lengths_kv: list[int] | None = None,
    scale: float = 1.0,
    sparse_mode: int = 0,
    **more: Any,
) -> tuple[Tensor, Tensor]:
    """`npu::npu_fused_infer_attention_score` of packed tokens, causal; (attention, empty).

    Args:
        query: [T, heads, D]; rows behind the last sequence stay zero.
        key: [T, heads, D], or a paged cache [blocks, block size, heads * D].
        value: as key.
        block_table: [sequences, blocks] of a paged cache.
        actual_seq_lengths: where each sequence ends among the rows of the query.
        actual_seq_lengths_kv: the same of the keys, or each sequence's length in a paged cache.
    """
    assert input_layout == "TND" and sparse_mode == CAUSAL, (input_layout, sparse_mode)
    assert actual_seq_lengths is not None and actual_seq_lengths_kv is not None
    result = torch.zeros_like(query)
    start = first_key = 0
    for index, (end, end_key) in enumerate(
        zip(actual_seq_lengths, actual_seq_lengths_kv, strict=False)
    ):
        if block_table is None:
            keys, values = (t[first_key:end_key] for t in (key, value))
            first_key = end_key
        else:
            size = (num_key_value_heads, query.shape[-1])
            keys, values = (paged(t, block_table[index], end_key, size) for t in (key, value))
        if end > start and len(keys):
            result[start:end] = one_sequence(query[start:end], keys, values, scale)
        start = end
    return result, torch.empty(0)


def paged(cache: Tensor, blocks: Tensor, length: int, size: tuple[int, int]) -> Tensor:
    """The first `length` rows of a sequence in a paged cache, [length, heads, D]."""
    used = blocks[: -(-length // cache.shape[1])].long()
    return cache[used].flatten(0, 1)[:length].reshape(length, *size)


def one_sequence(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention of one sequence whose last query sees every key, [T, heads, D]."""
    mask = attention.hidden(attention.RIGHT_DOWN_CAUSAL, None, len(query), len(key))
    heads = (t.transpose(0, 1).unsqueeze(0) for t in (query, key, value))
    return attention.attend(*heads, scale, mask).squeeze(0).transpose(0, 1)


def into_given(
    *args: Any, workspace: Tensor | None = None, out: list[Tensor], **kwargs: Any
) -> tuple[Tensor, ...]:
    """The same into given memory, as a captured step calls it."""
    out[0].copy_(fused_infer_attention_score(*args, **kwargs)[0].view_as(out[0]))
    return tuple(out)


def as_it_is(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`npu::npu_format_cast`: another order in memory, which a host does not have."""
    return input


def matmul_add(x: Tensor, weight: Tensor, c: Tensor) -> None:
    """`atb::_npu_matmul_add_fp32`: adds the product of x turned and the weight, in place."""
    c += x.float().mT @ weight.float()


REFERENCES = {
    "_C_ascend::matmul_allreduce_add_rmsnorm": matmul_allreduce_add_rmsnorm,
    "_C_ascend::npu_add_rms_norm_bias": add_rms_norm_bias,
    "atb::_npu_matmul_add_fp32": matmul_add,
    "atb::_npu_rotary_embedding": rotary_embedding,
    "npu::npu_format_cast": as_it_is,
    "npu::npu_fused_infer_attention_score": fused_infer_attention_score,
    "npu::npu_fused_infer_attention_score.out": into_given,
    "vllm::qkv_rmsnorm_rope": qkv_rmsnorm_rope,
}
