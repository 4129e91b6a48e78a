"""Hand-made tensor-parallel stacks: plain and W8A8, two and three dimensions, odd corners."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import vllm_operators
from torch import Tensor, nn

from ascend_passes import npu

HIDDEN, INNER, VOCABULARY = 64, 512, 64
EPSILON = 1e-6


@dataclass(frozen=True)
class Kind:
    """What a stack is made of."""

    dtype: torch.dtype = torch.float32
    quantized: str = ""
    """"" for plain weights, else static or dynamic."""
    bias: str = ""
    """"" for none, `after` the sum on every rank, `rank0` inside the product of one rank."""
    parallel_embedding: bool = False
    """Whether the embedding is summed over ranks too, as a vocabulary-parallel one is."""
    auxiliary: bool = False
    """Whether hidden states leave the model beside the result."""
    head: bool = True
    """Without a head the stack ends on hidden states, as a pipeline's first part does."""
    inplace: bool = False
    """Whether all_reduce writes its input, as transformers' does."""
    later: bool = False
    """Whether the stack begins on hidden states, as a pipeline's later part does."""
    collective: str = "torch"
    """Whose all_reduce sums: torch's functional one or vllm's."""
    hidden: int = HIDDEN


class RowParallel(nn.Module):
    """`[T, K / tp]` to the sum over ranks of `[T, N]`."""

    def __init__(self, kind: Kind, depth: int, columns: int, group: str) -> None:
        super().__init__()
        self.kind, self.group = kind, group
        bias = torch.randn(columns)
        dist.broadcast(bias, 0)
        self.product = Product(kind, depth, columns)
        if kind.quantized and kind.bias == "rank0":
            first = dist.get_rank() == 0
            self.product.register_buffer("bias", (bias * 1000).to(torch.int32) if first else None)
        else:
            self.bias = nn.Buffer(bias.to(kind.dtype)) if kind.bias else None

    def forward(self, x: Tensor) -> Tensor:
        part = self.product(x)
        bias = None if self.kind.quantized and self.kind.bias == "rank0" else self.bias
        if bias is not None and self.kind.bias == "rank0" and dist.get_rank() == 0:
            part = part + bias
        if self.kind.inplace:
            dist.all_reduce(part)
            total = part
        else:
            total = summed(self.kind, part, self.group)
        return total + bias if bias is not None and self.kind.bias == "after" else total


def summed(kind: Kind, part: Tensor, group: str) -> Tensor:
    if kind.collective == "vllm":
        return torch.ops.vllm.all_reduce(part, vllm_operators.GROUP)
    return functional.all_reduce(part, "sum", group)


class Product(nn.Module):
    """A matmul of this rank's share of a weight; W8A8 where the kind says so."""

    def __init__(self, kind: Kind, depth: int, columns: int) -> None:
        super().__init__()
        self.quantized = kind.quantized
        self.register_buffer("bias", None)
        if not kind.quantized:
            self.weight = nn.Buffer(torch.randn(columns, depth).to(kind.dtype) / depth**0.5)
            return
        self.weight = nn.Buffer(torch.randint(-127, 128, (columns, depth), dtype=torch.int8))
        self.scale = nn.Buffer(torch.rand(columns) / (127 * depth**0.5))
        self.input_scale = nn.Buffer(torch.tensor([0.03]))
        self.input_offset = nn.Buffer(torch.zeros(1, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if not self.quantized:
            return torch.nn.functional.linear(x, self.weight)
        scales = (self.scale, self.input_scale, self.input_offset)
        return multiplied(x, self.quantized, self.weight, *scales, self.bias)


def multiplied(
    x: Tensor,
    quantized: str,
    weight: Tensor,
    scale: Tensor,
    input_scale: Tensor,
    input_offset: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """A W8A8 product of `[..., K]` with an int8 weight `[N, K]`, in bfloat16."""
    per_token = None
    if quantized == "dynamic":
        rows, per_token = npu.npu_dynamic_quant(x)
        per_token = per_token.reshape(-1)
    else:
        rows = npu.npu_quantize(x, input_scale, input_offset, 1, -1, True)
    found = npu.npu_quant_matmul(
        rows.reshape(-1, rows.shape[-1]),
        weight.t(),
        scale if quantized == "dynamic" else scale * input_scale,
        pertoken_scale=per_token,
        bias=bias,
        output_dtype=15,
    )
    return found.reshape(*x.shape[:-1], found.shape[-1])


class Layer(nn.Module):
    def __init__(self, kind: Kind, group: str, ranks: int) -> None:
        super().__init__()
        hidden = kind.hidden
        self.first = nn.Buffer(shared(torch.rand(hidden) + 0.5).to(kind.dtype))
        self.second = nn.Buffer(shared(torch.rand(hidden) + 0.5).to(kind.dtype))
        inner = INNER // ranks if INNER // ranks >= 256 else 256
        self.qkv = Product(kind, hidden, inner)
        self.output = RowParallel(kind, inner, hidden, group)
        self.up = Product(kind, hidden, inner)
        self.down = RowParallel(kind, inner, hidden, group)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.output(torch.tanh(self.qkv(normalized(x, self.first))))
        return x + self.down(torch.nn.functional.silu(self.up(normalized(x, self.second))))


class Stack(nn.Module):
    """Token ids `[T]` or `[B, S]`, or hidden states, to scores or hidden states.

    Auxiliary states come beside them.
    """

    def __init__(self, kind: Kind, layers: int, group: str, ranks: int) -> None:
        super().__init__()
        self.kind, self.group, self.ranks = kind, group, ranks
        hidden = kind.hidden
        self.embedding = nn.Buffer(shared(torch.randn(VOCABULARY, hidden)).to(kind.dtype))
        self.layers = nn.ModuleList(Layer(kind, group, ranks) for _ in range(layers))
        self.norm = nn.Buffer(shared(torch.rand(hidden) + 0.5).to(kind.dtype))
        self.head = nn.Buffer(shared(torch.randn(VOCABULARY, hidden)).to(kind.dtype))

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        x = given if self.kind.later else torch.nn.functional.embedding(given, self.embedding)
        if self.kind.parallel_embedding:
            x = summed(self.kind, x / self.ranks, self.group)
        kept = []
        for layer in self.layers:
            x = layer(x)
            kept.append(x.float() if self.kind.auxiliary else x)
        if not self.kind.head:
            return (x, normalized(x, self.norm))
        scores = torch.nn.functional.linear(normalized(x, self.norm), self.head)
        return (scores, *kept[:1]) if self.kind.auxiliary else (scores,)


def normalized(x: Tensor, gain: Tensor) -> Tensor:
    """RMSNorm as transformers spells it."""
    wide = x.float()
    return gain * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)).to(x.dtype)


def shared(values: Tensor) -> Tensor:
    """Rank 0's values on every rank."""
    dist.broadcast(values, 0)
    return values
