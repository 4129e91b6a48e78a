"""One call of each operator: as it declares one, or here for those that do not."""

from __future__ import annotations

from typing import Any

import torch

from ascend_passes import npu
from tests.npu.draw import gains, generator, integers, normal

Call = tuple[tuple[Any, ...], dict[str, Any]]


def call_of(name: str, seed: int, rows: int, width: int, dtype: torch.dtype) -> Call:
    """Arguments by position and by name; sizes are [rows, 2 * width]."""
    example = npu.OPERATORS[name].example
    if example is not None:
        return (), example(generator(seed), rows, width, dtype)
    arguments, keywords = examples(seed, rows, width, dtype)[name]
    return tuple(arguments), dict(keywords)


def named_call(name: str, seed: int, rows: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    """The same by name alone."""
    arguments, keywords = call_of(name, seed, rows, width, dtype)
    entries = npu.packet(name).default._schema.arguments
    return dict(zip((entry.name for entry in entries), arguments, strict=False)) | keywords


def groups(source: torch.Generator, rows: int, experts: int, kind: int) -> dict[str, Any]:
    """How rows fall to experts, of which some may have none: where each ends, or its count."""
    inside = torch.randint(rows + 1, (experts - 1,), generator=source).sort().values
    ends = torch.cat([inside, torch.tensor([rows])])
    counts = ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
    chosen = counts if kind else ends
    return {"group_list": chosen, "group_list_type": kind, "split_item": 3, "group_type": 0}


def examples(seed, rows, width, dtype):
    """One call of each operator that needs no process group; sizes are [rows, 2 * width]."""
    source = generator(seed)
    size = 2 * width
    x, other = (normal(source, rows, size, dtype=dtype) for _ in range(2))
    gamma, beta = gains(source, size, dtype), gains(source, size, dtype)
    scale, row_scale = (torch.rand(n, generator=source) + 0.1 for n in (size, rows))
    left, right = integers(source, rows, width), integers(source, size, width).T
    heads, cos = (
        normal(source, rows, 3, size, dtype=dtype),
        normal(source, rows, 1, size, dtype=dtype),
    )
    one, half = torch.ones(1), torch.ones(1, width)
    cache = torch.zeros(rows + 1, 2, 3, size, dtype=dtype)
    slots = torch.arange(rows).to(torch.int32)
    blocked = torch.zeros(rows + 1, 3 * width, 2, 2, dtype=dtype)
    experts = normal(source, 3, 4 * width + 1, size, dtype=dtype)
    grouped = groups(source, rows, 3, int(torch.randint(2, (), generator=source)))
    summed = integers(source, rows, size, dtype=torch.int32)
    return {
        "npu_rms_norm": [(x, gamma), {}],
        "npu_gemma_rms_norm": [(x, gamma), {}],
        "npu_add_rms_norm": [(x, other, gamma), {}],
        "npu_add_rms_norm_cast": [(x, other, gamma), {}],
        "npu_add_rms_norm_quant": [(x, other, gamma, scale, None, beta, scale), {}],
        "npu_add_rms_norm_dynamic_quant": [(x, other, gamma), {"output_mask": [True, True]}],
        "npu_rms_norm_quant": [(x, gamma, beta, one.to(dtype), one.to(torch.int8)), {}],
        "npu_rms_norm_quant_v2": [(x, gamma, scale), {}],
        "npu_quantize": [(x, scale, None, 0, -1), {}],
        "npu_dynamic_quant": [(x,), {}],
        "npu_trans_quant_param": [(scale,), {}],
        "npu_quant_matmul": [
            (left, right, scale),
            {"pertoken_scale": row_scale, "output_dtype": 5},
        ],
        "npu_grouped_matmul": [([x], [experts.mT]), grouped],
        "npu_swiglu": [(x,), {}],
        "npu_swiglu_quant": [(x,), {"quant_mode": 1}],
        "npu_dequant_swiglu_quant": [
            (summed,),
            {"weight_scale": scale, "activation_scale": row_scale, "quant_scale": half},
        ],
        "npu_rotary_mul": [(heads[None], cos[None], cos[None]), {}],
        "npu_apply_rotary_pos_emb": [(heads, heads.clone(), cos, cos, "TND"), {}],
        "npu_mrope": [(slots, x, x, cos.reshape(rows, size), size), {}],
        "npu_prefetch": [(gamma, x, 64), {}],
        "npu_scatter_pa_kv_cache": [(heads, heads, blocked, blocked.clone(), slots), {}],
        "_npu_reshape_and_cache": [(heads, heads, cache.mT.mT, cache.clone(), slots), {}],
    }
