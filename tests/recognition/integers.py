"""Quantized rows and integer matmuls composed of their parts."""

from __future__ import annotations

import torch

K, COLUMNS = 32, 24
INT8 = torch.int8
SCALED = {
    "divide": lambda x, s: x / s,
    "reciprocal": lambda x, s: x * s.reciprocal(),
    "one over": lambda x, s: x * (1.0 / s),
    "wide": lambda x, s: x.float() / s.float(),
}
WHOLE = {
    "round clamp": lambda v: v.round().clamp(-128, 127).to(INT8),
    "clamp round": lambda v: v.clamp(-128, 127).round().to(INT8),
    "two clamps": lambda v: v.round().clamp_min(-128).clamp_max(127).to(INT8),
    "int first": lambda v: v.round().clamp(-128, 127).to(torch.int32).to(INT8),
}
LARGEST = {
    "amax": lambda x: x.abs().amax(-1, keepdim=True),
    "max": lambda x: x.abs().max(-1, keepdim=True)[0],
    "norm": lambda x: torch.linalg.vector_norm(x, float("inf"), -1, keepdim=True),
    "both ends": lambda x: torch.maximum(-x.amin(-1, True), x.amax(-1, True)),
}
WRONG = {
    "no clamp": lambda x, s: (x / s).round().to(INT8),
    "uint8": lambda x, s: (x / s).round().clamp(0, 255).to(torch.uint8),
    "narrow": lambda x, s: (x / s).round().clamp(-8, 7).to(INT8),
    "cut": lambda x, s: (x / s).clamp(-128, 127).trunc().to(INT8),
    "of rows": lambda x, s: (x / x.mean(-1, keepdim=True)).round().clamp(-128, 127).to(INT8),
}
"""No quantize of an operator."""
SUMS = {
    "_int_mm": lambda q, w: torch._int_mm(q, w.t()),
    "int32": lambda q, w: q.int() @ w.int().t(),
    "float": lambda q, w: q.float() @ w.float().t(),
    "einsum": lambda q, w: torch.einsum("tk,ok->to", q.float(), w.float()),
    "linear": lambda q, w: torch.nn.functional.linear(q.float(), w.float()),
}
BEHIND = {
    "columns": lambda p, c, r: (p * c).bfloat16(),
    "both": lambda p, c, r: (p * c * r[:, None]).bfloat16(),
    "rows first": lambda p, c, r: (r.unsqueeze(-1) * p * c).bfloat16(),
    "divided": lambda p, c, r: (p * c / (1 / r[:, None])).bfloat16(),
}
