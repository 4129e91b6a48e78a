"""Rope as a complex product becomes `npu_rotary_mul` on interleaved pairs.

The real and imaginary parts of the factor are the cosine and the sine; each serves two neighbours.
The operator takes four dims; tokens of no sequence get a first one."""

from typing import Annotated, TypeVar

import torch

from ascend_passes import Rule, npu

Heads = Annotated[torch.Tensor, "B S N 2*P"]
Tokens = Annotated[torch.Tensor, "S N 2*P"]  # without a dim for sequences
Shared = Annotated[torch.Tensor, "1 S 1 P", torch.complex64]
Own = Annotated[torch.Tensor, "B S 1 P", torch.complex64]  # Llama 4: a table of each sequence
OfTokens = Annotated[torch.Tensor, "S 1 P", torch.complex64]
Rotated = TypeVar("Table", Heads, Heads, Tokens)
Table = TypeVar("Table", Shared, Own, OfTokens)


def pattern(factor: Table, x: Rotated):
    pairs = x.float().reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    return torch.view_as_real(torch.view_as_complex(pairs) * factor).flatten(-2).type_as(x)


def replacement(x, factor):
    whole, tables = (t if t.dim() == 4 else t.unsqueeze(0) for t in (x, factor))
    tables = torch.view_as_real(tables)
    cos, sin = (tables[..., part].repeat_interleave(2, -1).to(x.dtype) for part in (0, 1))
    return npu.npu_rotary_mul(whole, cos, sin, "interleave").reshape(x.shape)


SIZES = [{"B": 2, "S": 5, "N": 4, "P": 32}]
# Half precision rounds the tables, which the complex product keeps in float32.
rule = Rule(pattern, replacement, examples=SIZES, shares=True, tolerance=4)
