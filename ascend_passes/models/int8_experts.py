"""Experts of W8A8 checkpoints: which a folder holds, and how they run from int8."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from safetensors import safe_open
from torch import Tensor, nn

from ascend_passes.models.quantize import largest_scale

STORED = re.compile(r"(.*\.experts)\.\d+\.\w+\.weight_scale")
"""The scale of one expert's weight; the layer's experts are the group."""
PACKED = ("gate_up_proj", "down_proj")
"""transformers' parameters, [experts, out, in]."""
SCALE = "_scale"
"""Behind a parameter's name: its scales, [experts, out, 1]."""


def reading(directory: Path) -> AbstractContextManager[None]:
    """While transformers reads a folder whose layers are quantized beside experts, or with them.

    Raises:
        ImportError: a transformers that packs no experts.
    """
    names = [
        name for file in sorted(directory.glob("*.safetensors")) for name in stored_names(file)
    ]
    scaled = any(name.endswith(SCALE) for name in names)
    if not scaled or not any(".experts." in name for name in names):
        return nullcontext()
    from ascend_passes.models.expert_reader import packing

    found = map(STORED.fullmatch, names)
    return packing(frozenset(one.group(1) for one in found if one is not None))


def stored_names(file: Path) -> list[str]:
    """The names of the tensors of a file."""
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def int8_experts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, module) of each layer's experts that are held in int8."""
    for name, module in model.named_modules():
        if hasattr(module, "int8_scheme"):
            yield name, module


def run_from_int8(model: nn.Module) -> None:
    """Let experts multiply by their int8 weights, read through their scales."""
    for _, experts in int8_experts(model):
        experts.forward = MethodType(int8_experts_forward, experts)


def int8_experts_forward(experts: Any, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of each token's experts, in the order of experts in between.

    Args:
        experts: held in int8.
        tokens: `[T, H]` in the model's dtype.
        chosen: `[T, K]`, numbers of experts.
        weights: `[T, K]`.
    """
    count, choices = experts.num_experts, chosen.shape[1]
    ordered, order = torch.sort(chosen.reshape(-1))
    # histc takes no integers on a CPU.
    counts = torch.histc(ordered.float(), bins=count, min=0, max=count - 1)
    ends = counts.cumsum(0, dtype=torch.int32)
    rows = int8_product(experts, "gate_up_proj", tokens[order // choices], ends)
    rows = int8_product(experts, "down_proj", experts._apply_gate(rows), ends)
    rows = rows * weights.reshape(-1)[order].unsqueeze(-1)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return rows[places].view(*chosen.shape, -1).sum(1).to(tokens.dtype)


def int8_product(experts: Any, name: str, rows: Tensor, ends: Tensor) -> Tensor:
    """Rows, rounded to int8 by a scale each, times the weights of their experts."""
    scheme, scales = experts.int8_scheme, getattr(experts, name + SCALE)
    rounded = fake_quantize(rows, largest_scale(rows), None, scheme.input_activations)
    weight = getattr(experts, name).to(rows.dtype) * scales
    if rows.dtype == torch.bfloat16:
        return nn.functional.grouped_mm(rounded.to(rows.dtype), weight.mT, offs=ends)
    # torch traces its own product for bfloat16 alone; transformers has one for the other dtypes.
    product: Tensor = torch.ops.transformers.grouped_mm_fallback(
        rounded.to(rows.dtype), weight.mT, ends
    )
    return product
