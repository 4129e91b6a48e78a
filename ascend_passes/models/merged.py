"""A W8A8 decoder with merged projections and fake weights, as large as its configuration says.

Serving engines merge the query, key and value projections into one, and gate and up as well. The
layers here are transformers' own Qwen3 modules with those merges; nothing is allocated.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationStatus
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from ascend_passes.ir import trace
from ascend_passes.models.quantize import int8_forward, scheme

QWEN3_32B = {
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
"""Qwen/Qwen3-32B's config.json, without its 64 layers."""


def trace_merged(layers: int, tokens: int, dynamic: bool = False) -> fx.GraphModule:
    """The inference graph of a prefill through a Qwen3-32B-shaped static W8A8 model.

    Args:
        layers: decoder layers; Qwen3-32B has 64.
        tokens: of the one sequence.
        dynamic: whether the number of tokens is a symbol.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = merged_model(layers)
        token_ids = torch.zeros(1, tokens, dtype=torch.int64)
        positions = torch.arange(tokens)[None]
        if dynamic:
            torch._dynamo.mark_dynamic(token_ids, 1)
            torch._dynamo.mark_dynamic(positions, 1)
        return trace.aot_graph(
            model,
            input_ids=token_ids,
            position_ids=positions,
            attention_mask={"full_attention": None},
            use_cache=False,
        )


def merged_model(layers: int) -> PreTrainedModel:
    """The model under the caller's fake mode: bfloat16, static W8A8, merged projections."""
    config = Qwen3Config(num_hidden_layers=layers, **QWEN3_32B)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.eval().requires_grad_(False)
    for layer in model.model.layers:
        merge_attention(layer.self_attn)
        merge_mlp(layer.mlp)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            quantize_unset(module)
    return model


def merge_attention(attention: Any) -> None:
    """One projection for query, key and value."""
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    attention.qkv_proj = merged_linear(*parts)
    attention.widths = [part.out_features for part in parts]
    del attention.q_proj, attention.k_proj, attention.v_proj
    attention.forward = MethodType(attention_forward, attention)


def merge_mlp(mlp: Any) -> None:
    """One projection for gate and up."""
    mlp.gate_up_proj = merged_linear(mlp.gate_proj, mlp.up_proj)
    del mlp.gate_proj, mlp.up_proj
    mlp.forward = MethodType(mlp_forward, mlp)


def merged_linear(*parts: nn.Linear) -> nn.Linear:
    """A layer whose outputs are those of `parts`, one after the other."""
    first = parts[0]
    width = sum(part.out_features for part in parts)
    return nn.Linear(first.in_features, width, bias=False, dtype=first.weight.dtype)


def attention_forward(
    attention: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal self-attention of one prefill; hidden states are `[batch, tokens, hidden]`."""
    shape = (*hidden_states.shape[:-1], -1, attention.head_dim)
    query, key, value = attention.qkv_proj(hidden_states).split(attention.widths, dim=-1)
    query = attention.q_norm(query.view(shape)).transpose(1, 2)
    key = attention.k_norm(key.view(shape)).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    heads = scaled_dot_product_attention(
        query, key, value.view(shape).transpose(1, 2), is_causal=True, enable_gqa=True
    )
    rows = heads.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)
    return attention.o_proj(rows), None


def mlp_forward(mlp: Any, hidden_states: Tensor) -> Tensor:
    """SwiGLU of the packed projection, then down."""
    gate, up = mlp.gate_up_proj(hidden_states).chunk(2, dim=-1)
    output: Tensor = mlp.down_proj(nn.functional.silu(gate) * up)
    return output


def quantize_unset(layer: Any) -> None:
    """Give a layer int8 weights and scales without values, as a loaded checkpoint has them."""
    dtype, weight = layer.weight.dtype, layer.weight
    del layer.weight
    layer.weight = nn.Parameter(torch.empty_like(weight, dtype=torch.int8), requires_grad=False)
    scales = {"weight_scale": (weight.shape[0], 1), "input_scale": (1,)}
    for name, shape in scales.items():
        layer.register_parameter(
            name, nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
        )
    layer.quantization_scheme = scheme("static")
    layer.quantization_status = QuantizationStatus.COMPRESSED
    layer.forward = MethodType(int8_forward, layer)
