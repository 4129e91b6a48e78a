"""Hugging Face's own Qwen3 of Qwen3-32B's sizes, its linear layers W8A8 by compressed-tensors.

The model is transformers' `Qwen3Model` as it is: q, k and v, gate and up are products of their own.
A decode step has a `StaticCache` and the mask that transformers makes for one, whatever it hides.
With a mask it repeats the cache's heads for each head of the query; without one it does not. A
prompt is causal without a mask, as `generate` leaves it, and fills no cache. Layers and scales are
what transformers makes of a checkpoint by compressed-tensors. Weights are random and int8 from the
start: no float copy of them is made on the way.

compressed-tensors has no integer kernel. Two programs say what its layers compute, both without
those of its parts that Dynamo cannot trace:

* int8 weights, as `load_model` leaves a checkpoint: each call reads them back as bfloat16. Eager is
  slow at it and waits for the host in each layer; Inductor writes the weight that it multiplies.
* bfloat16 weights, read back once, as the library itself leaves a checkpoint at its first call:
  twice the bytes, and the faster of both for everyone who has no integer kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationStatus,
    apply_quantization_config,
)
from compressed_tensors.quantization.lifecycle.forward import dequantize, fake_quantize
from torch import Tensor, nn

from ascend_passes.models.build import small_model
from ascend_passes.models.generate import new_cache, step_inputs
from ascend_passes.models.quantize import (
    dynamic_numbers,
    keep_compressed,
    quantized_layers,
    scheme,
)
from tests.bench.peers_stack import THETA, Forward
from tests.bench.qwen3_stack import EPSILON, VOCABULARY, Shape

POSITIONS = 40960
"""Of Qwen3-32B's config.json."""
NO_MASK = {"attention_mask": {"full_attention": None}}
"""Prepared, as `generate` hands them over. Of a mask that is missing, torch before 2.14 makes one
when it compiles."""


class HuggingFaceStack:
    """Embedding, layers and last norm on one device; there is no head."""

    def __init__(
        self,
        shape: Shape,
        layers: int,
        device: str,
        float_weights: bool = True,
        decode_mask: bool = True,
        seed: int = 0,
    ) -> None:
        self.model = int8_model(shape, layers, device, seed)
        self.float_model = with_float_weights(self.model) if float_weights else None
        self.decode_mask = decode_mask

    def programs(self) -> dict[str, Any]:
        """What is put behind a peer's name -> the model that it runs."""
        more = {} if self.float_model is None else {", float weights": self.float_model}
        return {"": self.model, **more}

    def step(self, tokens: int, cached: int | None) -> Callable[[Forward], Tensor]:
        """What a step asks of a model, or of what `torch.compile` made of one.

        Args:
            tokens: of one prompt, or sequences of one new token each.
            cached: positions of the cache of a sequence, the last of which is the new token's;
                None for a prompt.

        Returns:
            A function of the model that gives the last hidden states, `[1, tokens, H]` of a
            prompt, `[tokens, 1, H]` of a decode step.
        """
        ids = torch.randint(0, VOCABULARY, (tokens,), device=self.model.device)
        if cached is None:
            prompt = {"input_ids": ids.unsqueeze(0), "use_cache": False} | NO_MASK
            return lambda forward: forward(**prompt).last_hidden_state
        cache = new_cache(self.model, tokens, cached)
        lengths = [layer.cumulative_length for layer in cache.layers]
        before = [torch.full_like(length, cached - 1) for length in lengths]
        for layer in cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
        torch._foreach_copy_(lengths, before)  # the mask depends on them
        given = step_inputs(self.model, ids.unsqueeze(1), cached - 1, cache)
        if not self.decode_mask:
            given |= NO_MASK

        def decode(forward: Forward) -> Tensor:
            torch._foreach_copy_(lengths, before)  # each step adds one; a replay must not run out
            return forward(**given).last_hidden_state

        return decode


def int8_model(shape: Shape, layers: int, device: str, seed: int) -> Any:
    """transformers' model with int8 weights, random ones.

    Its layers are made without memory and get it when they are int8: a float model of 64 layers
    would fill the device.
    """
    with torch.device("meta"):
        model: Any = small_model(
            "qwen3",
            torch.bfloat16,
            vocab_size=VOCABULARY,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_size,
            max_position_embeddings=POSITIONS,
            rms_norm_eps=EPSILON,
            rope_parameters={"rope_type": "default", "rope_theta": THETA},
        ).model
    config = QuantizationConfig(
        config_groups={"linear": scheme("dynamic")},
        quantization_status=QuantizationStatus.INITIALIZED,
    )
    apply_quantization_config(model, config)
    ModelCompressor.from_pretrained_model(model).compress_model(model)
    keep_compressed(model)
    model.to_empty(device=device)
    model.rotary_emb = type(model.rotary_emb)(model.config).to(device)  # its values are gone
    fill(model, torch.Generator(device).manual_seed(seed))
    return model


@torch.no_grad()
def fill(model: Any, generator: torch.Generator) -> None:
    """Random weights in place: int8 ones that keep the size of what they multiply."""
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.int8:
            parameter.random_(-127, 128, generator=generator)
        elif name.endswith("norm.weight"):
            parameter.normal_(1, 0.1, generator=generator)
        else:
            parameter.normal_(generator=generator)
    for _, layer in quantized_layers(model):
        layer.weight_scale.fill_(1 / (127 * layer.in_features**0.5))


@torch.no_grad()
def with_float_weights(model: Any) -> Any:
    """The model with its int8 weights read back as bfloat16; it shares all other tensors."""
    shared = {id(one): one for one in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, shared)
    for _, layer in quantized_layers(other):
        args = layer.quantization_scheme.weights
        weight = dequantize(layer.weight, layer.weight_scale, args=args)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.forward = MethodType(float_forward, layer)
    return other


def float_forward(layer: Any, value: Tensor) -> Tensor:
    """Round the rows of `[..., in]` to int8 and back, multiply in bfloat16."""
    args = layer.quantization_scheme.input_activations
    rounded = fake_quantize(value, *dynamic_numbers(value, args), args).to(value.dtype)
    return nn.functional.linear(rounded, layer.weight, layer.bias)
