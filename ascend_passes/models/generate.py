"""Prefill and greedy decode with a static KV cache, one call of the model per step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache
from transformers.masking_utils import create_causal_mask, create_masks_for_generate

Forward = Callable[..., Any]
"""The model itself or what `torch.compile` made of it."""
Progress = Callable[[int], None]


def no_progress(_: int) -> None:
    """Progress that nobody watches."""


def new_cache(model: PreTrainedModel, batch: int, length: int) -> StaticCache:
    """An empty KV cache for `length` tokens, allocated so that a prefill can be compiled too."""
    config = model.config.get_text_config()
    cache = StaticCache(config=config, max_cache_len=length)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache.early_initialization(
        batch, config.num_key_value_heads, head_dim, model.dtype, model.device
    )
    return cache


def step_inputs(
    model: PreTrainedModel, token_ids: Tensor, start: int, cache: StaticCache
) -> dict[str, Any]:
    """The arguments of one forward, with the masks made outside the model as `generate` does.

    Args:
        token_ids: `[batch, tokens]` int64, the new tokens.
        start: position of the first of them.
        cache: holds the `start` tokens before.
    """
    batch, tokens = token_ids.shape
    positions = torch.arange(start, start + tokens, device=token_ids.device).expand(batch, -1)
    shape = torch.empty(batch, tokens, 0, dtype=model.dtype, device=token_ids.device)
    seen = torch.ones(batch, start + tokens, dtype=torch.int64, device=token_ids.device)
    given = (model.config.get_text_config(), shape, seen, cache, positions)
    mask = create_masks_for_generate(*given)
    if mask is None:  # the model would make its own, with a branch that breaks the graph
        mask = create_causal_mask(*given, allow_is_causal_skip=False)
    return {
        "input_ids": token_ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
    }


@torch.no_grad()
def generate(
    forward: Forward,
    model: PreTrainedModel,
    cache: StaticCache,
    prompt: Tensor,
    count: int,
    progress: Progress = no_progress,
) -> Tensor:
    """Greedy decode of `count` tokens.

    Args:
        forward: called in place of `model`, whose configuration and dtype shape the inputs.
        cache: emptied first; it must hold prompt and new tokens.
        prompt: `[batch, prompt tokens]`.
        count: tokens to produce, at least 1.
        progress: told after each step how many tokens there are.

    Returns:
        `[batch, count]` token ids.
    """
    cache.reset()
    token, start, chosen = prompt, 0, []
    for done in range(1, count + 1):
        logits = forward(**step_inputs(model, token, start, cache)).logits
        start += token.shape[1]
        token = logits[:, -1].argmax(-1, keepdim=True)
        chosen.append(token)
        progress(done)
    return torch.cat(chosen, dim=1)


@torch.no_grad()
def logits_of(
    forward: Forward,
    model: PreTrainedModel,
    cache: StaticCache,
    prompt: Tensor,
    following: Tensor,
    progress: Progress = no_progress,
) -> Tensor:
    """Teacher-forced logits: prefill of `prompt`, then one decode step for each given token.

    Args:
        forward, model, cache, prompt, progress: as in `generate`.
        following: `[batch, n]`, the tokens to feed whatever the model would have chosen.

    Returns:
        `[batch, prompt tokens + n, vocabulary]` in the model's dtype.
    """
    cache.reset()
    length = prompt.shape[1]
    parts = [forward(**step_inputs(model, prompt, 0, cache)).logits.clone()]
    for index in range(following.shape[1]):
        token = following[:, index : index + 1]
        # With the strides that a chosen token has, or its step would be compiled again.
        token = token.clone(memory_format=torch.contiguous_format)
        parts.append(forward(**step_inputs(model, token, length + index, cache)).logits.clone())
        progress(index + 1)
    return torch.cat(parts, dim=1)
