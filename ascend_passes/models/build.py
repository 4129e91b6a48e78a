"""Small seeded models of each supported family, built from a configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

SMALL: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
)
"""Large enough for every documented shape limit of the operators, small enough for a laptop."""
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "qwen2": ("qwen2", {}),
        "qwen3": ("qwen3", {}),
        "llama": ("llama", {}),
        "mistral": ("mistral", {"sliding_window": None}),
        "qwen3_moe": (
            "qwen3_moe",
            {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128},
        ),
        "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 64, "sliding_window": 128}),
        "glm4": ("glm4", {"attention_bias": True}),
    }
)
"""Family -> transformers' model type and what its small configuration needs besides `SMALL`."""


def small_model(
    family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any
) -> PreTrainedModel:
    """A model of a family with random weights, in evaluation mode.

    Args:
        family: a key of `FAMILIES`.
        dtype: of the weights and activations.
        seed: of the weights; the caller's random state is left alone.
        changes: fields of the configuration to set differently.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; valid families: {', '.join(FAMILIES)}.")
    model_type, special = FAMILIES[family]
    config = CONFIG_MAPPING[model_type](**{**SMALL, **special, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()
