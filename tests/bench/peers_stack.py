"""Layers of Qwen3-32B's sizes with int8 weights and activations, rotary embedding and a KV cache,
spelled in plain torch: what a user writes who knows nothing of NPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.bench.qwen3_stack import EPSILON, VOCABULARY, Linear, Shape, gated, quantized

PLAIN = "plain"
THETA = 1e6
Cache = tuple[Tensor, Tensor]
Forward = Callable[..., Any]
"""A model, or what `torch.compile` made of it."""


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """As Hugging Face's `Qwen3RMSNorm` spells it."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    return gain * wide.to(x.dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x * cos + rotate_half(x) * sin`, as Hugging Face spells it."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos) + (torch.cat((-second, first), dim=-1) * sin)


class DecoderLayer(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape, device: str, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        width = (shape.heads + 2 * shape.kv_heads) * shape.head_size
        made = {"device": device, "generator": generator}
        self.qkv = Linear(width, shape.hidden, **made)
        self.output = Linear(shape.hidden, shape.heads * shape.head_size, **made)
        self.gate_up = Linear(2 * shape.intermediate, shape.hidden, **made)
        self.down = Linear(shape.hidden, shape.intermediate, **made)
        sizes = {"input": shape.hidden, "post": shape.hidden, "query": shape.head_size}
        for name, size in (*sizes.items(), ("key", shape.head_size)):
            gain = 1 + 0.1 * torch.randn(size, device=device, generator=generator)
            setattr(self, f"{name}_norm", nn.Buffer(gain.to(torch.bfloat16)))

    def attention(
        self, packed: Tensor, angles: tuple[Tensor, Tensor], cache: Cache | None, position: Tensor
    ) -> Tensor:
        """Over the rows of one prompt, or over the cache for one row of each sequence."""
        shape, tokens, size = self.shape, packed.shape[0], self.shape.head_size
        widths = [n * size for n in (shape.heads, shape.kv_heads, shape.kv_heads)]
        query, key, worth = packed.split(widths, dim=-1)
        query = rms_norm(query.reshape(tokens, -1, size), self.query_norm)
        key = rms_norm(key.reshape(tokens, -1, size), self.key_norm)
        query, key = (rotated(t, *angles) for t in (query, key))
        worth = worth.reshape(tokens, -1, size)
        attention = nn.functional.scaled_dot_product_attention
        if cache is None:
            query, key, worth = (t.transpose(0, 1).unsqueeze(0) for t in (query, key, worth))
            found = attention(query, key, worth, is_causal=True, enable_gqa=True)
            return found.squeeze(0).transpose(0, 1).reshape(tokens, -1)
        keys, values = cache
        keys.index_copy_(2, position, key.unsqueeze(2))
        values.index_copy_(2, position, worth.unsqueeze(2))
        return attention(query.unsqueeze(2), keys, values, enable_gqa=True).reshape(tokens, -1)

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], cache: Cache | None, position: Tensor
    ) -> Tensor:
        """`[T, H]` to `[T, H]`."""
        rows = quantized(rms_norm(hidden, self.input_norm), PLAIN)
        found = self.attention(self.qkv(*rows, PLAIN), angles, cache, position)
        hidden = hidden + self.output(*quantized(found, PLAIN), PLAIN)
        rows = quantized(rms_norm(hidden, self.post_norm), PLAIN)
        active = gated(self.gate_up(*rows, PLAIN), PLAIN)
        return hidden + self.down(*quantized(active, PLAIN), PLAIN)


class PlainStack(nn.Module):
    """An embedding, layers and a last norm, on one device."""

    def __init__(self, shape: Shape, layers: int, device: str, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator(device).manual_seed(seed)
        self.shape = shape
        self.layers = nn.ModuleList(DecoderLayer(shape, device, generator) for _ in range(layers))
        self.norm = nn.Buffer(torch.ones(shape.hidden, dtype=torch.bfloat16, device=device))
        table = torch.randn(VOCABULARY, shape.hidden, generator=generator, device=device)
        self.embedding = nn.Buffer(table.to(torch.bfloat16))
        half = torch.arange(0, shape.head_size, 2, device=device) / shape.head_size
        self.frequencies = nn.Buffer(1.0 / THETA**half)

    def forward(self, ids: Tensor, positions: Tensor, caches: list[Cache] | None) -> Tensor:
        """`[T]` to `[T, H]`.

        Args:
            ids: tokens of one prompt, or the last token of each sequence.
            positions: of each token, or `[1]`, where the next token of each sequence goes.
            caches: keys and values of each layer, `[sequences, heads, context, size]`; None for a
                prompt.
        """
        angle = positions.float().unsqueeze(-1) * self.frequencies
        angle = torch.cat([angle, angle], dim=-1).unsqueeze(-2)
        angles = angle.cos().to(torch.bfloat16), angle.sin().to(torch.bfloat16)
        hidden = nn.functional.embedding(ids, self.embedding)
        for index, layer in enumerate(self.layers):
            cache = None if caches is None else caches[index]
            hidden = layer(hidden, angles, cache, positions)
        return rms_norm(hidden, self.norm)

    def inputs(self, tokens: int, cached: int | None) -> tuple[Tensor, Tensor, list[Cache] | None]:
        """Random arguments of a step.

        Args:
            tokens: of one prompt, or sequences of one new token each.
            cached: positions in the cache of a sequence, the last of which is the new token's;
                None for a prompt.
        """
        made: dict[str, Any] = {"device": self.embedding.device}
        ids = torch.randint(0, self.embedding.shape[0], (tokens,), **made)
        if cached is None:
            return ids, torch.arange(tokens, **made), None
        sizes = (tokens, self.shape.kv_heads, cached, self.shape.head_size)
        made["dtype"] = torch.bfloat16
        caches = [(torch.randn(sizes, **made), torch.randn(sizes, **made)) for _ in self.layers]
        return ids, torch.full((1,), cached - 1, device=ids.device), caches

    def step(self, tokens: int, cached: int | None) -> Callable[[Forward], Tensor]:
        """A function of the model that gives the `[tokens, H]` of a step, with random inputs.

        Arguments as in `inputs`.
        """
        given = self.inputs(tokens, cached)
        return lambda forward: forward(*given)

    def programs(self) -> dict[str, nn.Module]:
        """The model alone."""
        return {"": self}
