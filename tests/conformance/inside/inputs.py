"""Random valid calls of every operator we declare: sizes, dtypes, optional arguments and layouts.

Tensors are on the meta device, so a call asks for shapes, dtypes and strides alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from ascend_passes import npu
from ascend_passes.npu.operator import Example, Operator

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32)
INT8, QINT8 = 1, 12
"""torch's dtype codes of the two spellings of int8."""


@dataclass(frozen=True)
class Call:
    """Arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


class Draw:
    """The choices that calls are made of."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.of = draw
        self.tokens: int = draw(st.integers(1, 9))
        self.hidden: int = 32 * draw(st.integers(1, 4))
        self.half: torch.dtype = draw(st.sampled_from(HALVES))

    def one(self, *choices: Any) -> Any:
        """One of the choices."""
        return self.of(st.sampled_from(choices))

    def rows(self, dtype: torch.dtype, width: int | None = None) -> Tensor:
        """(tokens, width) or (1, tokens, width)."""
        leading = self.one((self.tokens,), (1, self.tokens), (2, self.tokens))
        return meta(*leading, width or self.hidden, dtype=dtype)

    def optional(self, tensor: Tensor) -> Tensor | None:
        """The tensor or nothing."""
        return self.one(None, tensor)


def meta(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor without content."""
    return torch.empty(shape, dtype=dtype, device="meta")


def norm(d: Draw) -> Call:
    dtype = d.one(*FLOATS)
    x = d.rows(dtype)
    return Call((x, meta(d.hidden, dtype=dtype)), {"epsilon": 1e-5})


def add_norm(d: Draw) -> Call:
    x = d.rows(d.one(*FLOATS))
    return Call((x, torch.empty_like(x), meta(d.hidden, dtype=x.dtype)))


def add_norm_cast(d: Draw) -> Call:
    x = d.rows(d.half)
    return Call((x, torch.empty_like(x), meta(d.hidden, dtype=x.dtype)))


def add_norm_quant(d: Draw) -> Call:
    x = d.rows(d.half)
    scale, zero = (torch.float32, torch.int32) if d.half == torch.float16 else (torch.bfloat16,) * 2
    scales, zeros = meta(d.hidden, dtype=scale), meta(d.hidden, dtype=zero)
    second = d.optional(scales)
    args = (x, torch.empty_like(x), meta(d.hidden, dtype=d.half), scales, d.optional(zeros))
    return Call((*args, None, second), {"div_mode": d.one(True, False)})


def add_norm_dynamic_quant(d: Draw) -> Call:
    x = d.rows(d.half)
    gain = meta(d.hidden, dtype=d.half)
    smooth = d.one({}, {"smooth_scale1": gain}, {"smooth_scale1": gain, "smooth_scale2": gain})
    return Call((x, torch.empty_like(x), gain), {**smooth})


def norm_quant(d: Draw) -> Call:
    gain, scale = meta(d.hidden, dtype=d.half), meta(1, dtype=d.half)
    return Call((d.rows(d.half), gain, gain, scale, meta(1, dtype=torch.int8)))


def norm_quant_v2(d: Draw) -> Call:
    gain, scale = meta(d.hidden, dtype=d.half), meta(1, dtype=torch.float32)
    offset = meta(1, dtype=torch.int32)
    return Call((d.rows(d.half), gain, scale), {"offset": offset, "beta": gain})


def quantize(d: Draw) -> Call:
    x = d.rows(d.half)
    scale = meta(d.one(1, d.hidden), dtype=d.half)
    zero = d.optional(torch.empty_like(scale))
    return Call((x, scale, zero, d.one(INT8, QINT8)), {"axis": -1, "div_mode": d.one(True, False)})


def dynamic_quant(d: Draw) -> Call:
    return Call((d.rows(d.half),), {"smooth_scales": d.optional(meta(d.hidden, dtype=d.half))})


def trans_quant_param(d: Draw) -> Call:
    return Call((meta(d.hidden, dtype=torch.float32),))


def quant_matmul(d: Draw) -> Call:
    x, w = meta(d.tokens, d.hidden, dtype=torch.int8), meta(d.hidden, 64, dtype=torch.int8)
    out, scale, bias = d.one(
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.int32),
        (torch.float16, torch.float32, torch.int32),
    )
    per_token = meta(d.tokens, dtype=torch.float32)
    per_token = per_token if out == torch.float16 else d.optional(per_token)
    weight = d.one(w, meta(64, d.hidden, dtype=torch.int8).t())
    optional = {"pertoken_scale": per_token, "bias": d.optional(meta(64, dtype=bias))}
    return Call((x, weight, meta(64, dtype=scale)), {**optional, "output_dtype": code(out)})


def code(dtype: torch.dtype) -> int:
    """torch's number of a dtype."""
    return {torch.float16: 5, torch.bfloat16: 15, torch.int32: 3, torch.int8: INT8}[dtype]


def grouped_matmul(d: Draw) -> Call:
    """Rows of three experts, or products apart; weights lie as torch's linear layers have them or
    transposed."""
    return rows_of_experts(d) if d.one(True, False) else products_apart(d)


def of_columns(out: torch.dtype) -> torch.dtype:
    """The dtype of the columns' scales, by that of the result."""
    return torch.float32 if out == torch.float16 else out


def products_apart(d: Draw) -> Call:
    """The same rows times two weights, of one half precision or of int8 with a scale a column."""
    widths, turned, out = (64, 48), d.one(True, False), d.one(*HALVES)
    integers = d.one(True, False)
    dtype = torch.int8 if integers else out
    weights = [
        meta(width, d.hidden, dtype=dtype).T if turned else meta(d.hidden, width, dtype=dtype)
        for width in widths
    ]
    options = {"split_item": 0, "group_type": -1}
    if integers:
        biases = [meta(width, dtype=torch.int32) for width in widths]
        options |= {
            "scale": [meta(width, dtype=of_columns(out)) for width in widths],
            "bias": d.one(None, biases),
            "output_dtype": code(out),
        }
    return Call(([meta(d.tokens, d.hidden, dtype=dtype)] * 2, weights), options)


def rows_of_experts(d: Draw) -> Call:
    """The rows of three experts in one tensor."""
    dtype = d.one(*FLOATS)
    weight = d.one(
        meta(3, d.hidden, 64, dtype=dtype), meta(3, 64, d.hidden, dtype=dtype).transpose(1, 2)
    )
    groups = {"group_list": meta(3, dtype=torch.int64), "group_list_type": d.one(0, 1)}
    x = meta(d.tokens, d.hidden, dtype=dtype)
    options = {**groups, "split_item": d.one(2, 3), "group_type": 0}
    if d.one(True, False):
        return Call(([x], [weight]), options)
    x, weight = (one.to(torch.int8) for one in (x, weight))
    out = d.one(torch.float16, torch.bfloat16)
    scales = {
        "scale": [meta(3, 64, dtype=of_columns(out))],
        "per_token_scale": [meta(d.tokens, dtype=torch.float32)],
        "output_dtype": code(out),
    }
    return Call(([x], [weight]), {**options, **scales})


def swiglu(d: Draw) -> Call:
    return Call((d.rows(d.one(*FLOATS)),), {"dim": -1})


def swiglu_quant(d: Draw) -> Call:
    smooth = d.optional(meta(d.hidden // 2, dtype=torch.float32))
    options = {"smooth_scales": smooth, "activate_left": d.one(True, False), "quant_mode": 1}
    return Call((d.rows(d.half),), options)


def dequant_swiglu_quant(d: Draw) -> Call:
    x = meta(d.tokens, d.hidden, dtype=torch.int32)
    scales = {
        "weight_scale": meta(1, d.hidden, dtype=torch.float32),
        "activation_scale": meta(d.tokens, 1, dtype=torch.float32),
    }
    return Call((x,), {**scales, "activate_left": True, "quant_mode": 1})


def rotary_mul(d: Draw) -> Call:
    x = meta(1, d.tokens, d.one(1, 4), 128, dtype=d.half)
    table = meta(1, d.tokens, 1, 128, dtype=d.half)
    return Call((x, table, table, d.one("half", "interleave")))


def apply_rotary(d: Draw) -> Call:
    query, key = (meta(1, d.tokens, heads, 128, dtype=d.half) for heads in (4, 2))
    table = meta(1, d.tokens, 1, 128, dtype=d.half)
    return Call((query, key, table, table, "BSND"))


def mrope(d: Draw) -> Call:
    query, key = (meta(d.tokens, heads * 128, dtype=d.half) for heads in (4, 2))
    positions = meta(d.tokens, dtype=torch.int64)
    return Call(
        (positions, query, key, meta(64, 128, dtype=d.half), 128), {"mrope_section": [0, 0, 0]}
    )


def matmul_pair(d: Draw, ranks: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(ranks * tokens, hidden) and (hidden, 64)."""
    return meta(ranks * d.tokens, d.hidden, dtype=dtype), meta(d.hidden, 64, dtype=dtype)


def quantized_pair(d: Draw, ranks: int) -> Call:
    """W8A8 operands of a collective matmul, with per-token and per-channel scales."""
    x, w = matmul_pair(d, ranks, torch.int8)
    scales = {
        "x1_scale": meta(x.shape[0], 1, dtype=torch.float32),
        "x2_scale": meta(1, 64, dtype=torch.float32),
    }
    return Call((x, w, "group", ranks), {**scales, "y_dtype": code(d.half)})


def all_reduce(d: Draw) -> Call:
    return Call((*matmul_pair(d, 1, d.half), "group"))


def reduce_scatter(d: Draw) -> Call:
    ranks = d.one(2, 4)
    return Call((*matmul_pair(d, ranks, d.half), "group", ranks))


def quant_reduce_scatter(d: Draw) -> Call:
    return quantized_pair(d, d.one(2, 4))


def all_gather(d: Draw) -> Call:
    return Call(
        (*matmul_pair(d, 1, d.half), "group", d.one(2, 4)), {"gather_output": d.one(True, False)}
    )


def quant_all_gather(d: Draw) -> Call:
    call = quantized_pair(d, 2)
    return Call(call.args, {**call.kwargs, "gather_output": d.one(True, False)})


def prefetch(d: Draw) -> Call:
    return Call((d.rows(d.half), d.one(d.rows(d.half), None), 1024))


def cache_write(d: Draw, cache: Tensor, slots: torch.dtype) -> Call:
    """Keys and values of one token each and their caches."""
    rows = meta(d.tokens, 2, 64, dtype=d.half)
    return Call((rows, rows, cache, torch.empty_like(cache), meta(d.tokens, dtype=slots)))


def scatter_cache(d: Draw) -> Call:
    return cache_write(d, meta(4, 2 * 64 // 16, 16, 16, dtype=d.half), torch.int32)


def reshape_cache(d: Draw) -> Call:
    return cache_write(d, meta(4, 16, 2, 64, dtype=d.half), torch.int32)


CALLS: dict[str, Callable[[Draw], Call]] = {
    "npu_rms_norm": norm,
    "npu_gemma_rms_norm": norm,
    "npu_add_rms_norm": add_norm,
    "npu_add_rms_norm_cast": add_norm_cast,
    "npu_add_rms_norm_quant": add_norm_quant,
    "npu_add_rms_norm_dynamic_quant": add_norm_dynamic_quant,
    "npu_rms_norm_quant": norm_quant,
    "npu_rms_norm_quant_v2": norm_quant_v2,
    "npu_quantize": quantize,
    "npu_dynamic_quant": dynamic_quant,
    "npu_trans_quant_param": trans_quant_param,
    "npu_quant_matmul": quant_matmul,
    "npu_grouped_matmul": grouped_matmul,
    "npu_swiglu": swiglu,
    "npu_swiglu_quant": swiglu_quant,
    "npu_dequant_swiglu_quant": dequant_swiglu_quant,
    "npu_rotary_mul": rotary_mul,
    "npu_apply_rotary_pos_emb": apply_rotary,
    "npu_mrope": mrope,
    "npu_mm_all_reduce_base": all_reduce,
    "npu_mm_reduce_scatter_base": reduce_scatter,
    "npu_quant_mm_reduce_scatter": quant_reduce_scatter,
    "npu_all_gather_base_mm": all_gather,
    "npu_all_gather_quant_mm": quant_all_gather,
    "npu_prefetch": prefetch,
    "npu_scatter_pa_kv_cache": scatter_cache,
    "_npu_reshape_and_cache": reshape_cache,
}


def declared(operator: Operator, example: Example) -> Callable[[Draw], Call]:
    """Calls as the operator itself gives an example of them."""
    positional = [
        entry.name
        for entry in npu.packet(operator.name).default._schema.arguments
        if not entry.kwarg_only
    ]

    def call(d: Draw) -> Call:
        source = torch.Generator().manual_seed(d.of(st.integers(0, 2**31)))
        given = npu.complete(operator.name, example(source, d.tokens, d.hidden, d.half))
        found = {k: one.to("meta") if isinstance(one, Tensor) else one for k, one in given.items()}
        return Call(tuple(found.pop(name) for name in positional), found)

    return call


CALLS |= {
    name: declared(operator, operator.example)
    for name, operator in npu.of_cann().items()
    if operator.example is not None
}


def transposed_call(name: str, x: Tensor) -> Call:
    """A call of one of the operators in `wheel_faults.KEEPS_STRIDES`, `x` being square."""
    gain = meta(x.shape[-1], dtype=x.dtype)
    tails = {"npu_quantize": (gain, None, INT8, -1), "npu_dynamic_quant": ()}
    residual = (meta(*x.shape, dtype=x.dtype),) if name == "npu_add_rms_norm" else ()
    return Call((x, *residual, *tails.get(name, (gain,))))
