"""A stack of Qwen3-32B-W8A8-shaped decoder layers, tensor parallel, int8 weights and activations.

Two spellings of the same arithmetic: `plain` is torch alone, for eager and Inductor; `npu` uses the
operators that serving models for Ascend are written with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed._functional_collectives as functional
from torch import Tensor, nn

from ascend_passes import npu

BFLOAT16_CODE = 15
EPSILON = 1e-6
VOCABULARY = 4096
CUDA_ROWS = 17
"""What torch._int_mm asks for on CUDA at least."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; the defaults are Qwen3-32B's (its config.json)."""

    hidden: int = 5120
    intermediate: int = 25600
    heads: int = 64
    kv_heads: int = 8
    head_size: int = 128


SMALL = Shape(hidden=512, intermediate=1024, heads=8, kv_heads=4, head_size=64)


class Linear(nn.Module):
    """W8A8, a scale per column of the weight and one per row of the input."""

    def __init__(self, columns: int, depth: int, device: str, generator: torch.Generator) -> None:
        super().__init__()
        shape = (columns, depth)
        weight = torch.randint(
            -127, 128, shape, dtype=torch.int8, generator=generator, device=device
        )
        self.weight = nn.Buffer(weight)
        scale = torch.full((columns,), 1.0 / (127 * depth**0.5), device=device)
        self.scale = nn.Buffer(scale)

    def forward(self, rows: Tensor, row_scale: Tensor, spelling: str) -> Tensor:
        """int8 `[T, K]` and float32 `[T]` to bfloat16 `[T, N]`."""
        if spelling == "npu":
            return npu.npu_quant_matmul(
                rows,
                self.weight.t(),
                self.scale,
                pertoken_scale=row_scale,
                output_dtype=BFLOAT16_CODE,
            )
        count = rows.shape[0]
        if rows.is_cuda and count < CUDA_ROWS:
            rows = torch.nn.functional.pad(rows, (0, 0, 0, CUDA_ROWS - count))
        total = torch._int_mm(rows, self.weight.t())[:count]
        return (total.float() * self.scale * row_scale.unsqueeze(-1)).to(torch.bfloat16)


def quantized(x: Tensor, spelling: str) -> tuple[Tensor, Tensor]:
    """(int8 rows, a scale for each)."""
    if spelling == "npu":
        return npu.npu_dynamic_quant(x)
    wide = x.float()
    scale = wide.abs().amax(-1) / 127
    rows = torch.round(wide / scale.unsqueeze(-1)).clamp(-128, 127).to(torch.int8)
    return rows, scale


def normalized(x: Tensor, gain: Tensor, spelling: str) -> Tensor:
    """RMSNorm over the last dimension."""
    if spelling == "npu":
        return npu.npu_rms_norm(x, gain, EPSILON)[0]
    wide = x.float()
    return gain * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)).to(x.dtype)


def gated(packed: Tensor, spelling: str) -> Tensor:
    """SwiGLU of one packed projection."""
    if spelling == "npu":
        return npu.npu_swiglu(packed, -1)
    gate, up = packed.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


class Layer(nn.Module):
    """One decoder layer's share of a rank."""

    def __init__(self, shape: Shape, ranks: int, device: str, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.heads // ranks, max(1, shape.kv_heads // ranks)
        self.head_size = shape.head_size
        width = (self.heads + 2 * self.kv_heads) * shape.head_size
        made = {"device": device, "generator": generator}
        self.qkv = Linear(width, shape.hidden, **made)
        self.output = Linear(shape.hidden, self.heads * shape.head_size, **made)
        self.gate_up = Linear(2 * shape.intermediate // ranks, shape.hidden, **made)
        self.down = Linear(shape.hidden, shape.intermediate // ranks, **made)
        ones = torch.ones(shape.hidden, dtype=torch.bfloat16, device=device)
        self.input_norm, self.post_norm = nn.Buffer(ones), nn.Buffer(ones.clone())
        heads = torch.ones(shape.head_size, dtype=torch.bfloat16, device=device)
        self.query_norm, self.key_norm = nn.Buffer(heads), nn.Buffer(heads.clone())

    def attention(self, packed: Tensor, cache: Tensor | None, spelling: str) -> Tensor:
        """Causal over the T rows of one prompt, or one row for each sequence of a decode batch."""
        tokens, size = packed.shape[0], self.head_size
        sizes = [self.heads * size, self.kv_heads * size, self.kv_heads * size]
        query, key, worth = packed.split(sizes, dim=-1)
        query = normalized(query.reshape(tokens, self.heads, size), self.query_norm, spelling)
        key = normalized(key.reshape(tokens, self.kv_heads, size), self.key_norm, spelling)
        worth = worth.reshape(tokens, self.kv_heads, size)
        if cache is None:
            query, key, worth = (t.transpose(0, 1).unsqueeze(0) for t in (query, key, worth))
            found = attend(query, key, worth, causal=True)
            return found.squeeze(0).transpose(0, 1).reshape(tokens, -1)
        key = torch.cat([cache[0], key.unsqueeze(2)], dim=2)
        worth = torch.cat([cache[1], worth.unsqueeze(2)], dim=2)
        return attend(query.unsqueeze(2), key, worth, causal=False).reshape(tokens, -1)

    def forward(self, hidden: Tensor, cache: Tensor | None, group: str, spelling: str) -> Tensor:
        """`[T, H]` to `[T, H]`."""
        rows = quantized(normalized(hidden, self.input_norm, spelling), spelling)
        found = self.attention(self.qkv(*rows, spelling), cache, spelling)
        part = self.output(*quantized(found, spelling), spelling)
        hidden = hidden + functional.all_reduce(part, "sum", group)
        rows = quantized(normalized(hidden, self.post_norm, spelling), spelling)
        active = gated(self.gate_up(*rows, spelling), spelling)
        part = self.down(*quantized(active, spelling), spelling)
        return hidden + functional.all_reduce(part, "sum", group)


def attend(query: Tensor, key: Tensor, worth: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention with grouped key and value heads."""
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(query, key, worth, is_causal=causal, enable_gqa=True)


class Stack(nn.Module):
    """An embedding, layers and a last norm."""

    def __init__(
        self, shape: Shape, layers: int, ranks: int, group: str, device: str, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator(device).manual_seed(seed)
        made = (Layer(shape, ranks, device, generator) for _ in range(layers))
        self.layers = nn.ModuleList(made)
        self.norm = nn.Buffer(torch.ones(shape.hidden, dtype=torch.bfloat16, device=device))
        same = torch.Generator(device).manual_seed(0)  # every rank has the same embedding
        table = torch.randn(VOCABULARY, shape.hidden, generator=same, device=device)
        self.embedding = nn.Buffer(table.to(torch.bfloat16))
        self.group = group
        self.spelling = "plain"

    def forward(self, ids: Tensor, cache: Tensor | None = None) -> Tensor:
        """`[T]` to `[T, H]`; `cache` is `[2, T, heads, context, size]` for a decode step."""
        hidden = torch.nn.functional.embedding(ids, self.embedding)
        for layer in self.layers:
            hidden = layer(hidden, cache, self.group, self.spelling)
        return normalized(hidden, self.norm, self.spelling)

    def spelled(self, spelling: str) -> Stack:
        """The same weights in another spelling."""
        other = Stack.__new__(Stack)
        nn.Module.__init__(other)
        other.layers, other.norm, other.embedding = self.layers, self.norm, self.embedding
        other.group, other.spelling = self.group, spelling
        return other
