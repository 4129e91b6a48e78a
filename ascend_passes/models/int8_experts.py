"""Experts of W8A8 checkpoints: read as they are stored, each expert apart, and run from int8.

transformers packs the experts of a layer into two parameters. Of a checkpoint by compressed-tensors
it knows how to pack floats alone; here the int8 weights are packed as they are, and their scales
beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationScheme, QuantizationStrategy
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from safetensors import safe_open
from torch import Tensor, nn
from transformers.core_model_loading import WeightConverter
from transformers.integrations.compressed_tensors import get_experts_scheme
from transformers.integrations.moe import _grouped_linear
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_compressed_tensors import CompressedTensorsHfQuantizer

from ascend_passes.models.quantize import largest_scale
from ascend_passes.models.schemes import require_model

METHOD = "compressed-tensors"
STORED = re.compile(r"(.*\.experts)\.\d+\.\w+\.weight_scale")
"""The scale of one expert's weight; the layer's experts are the group."""
PACKED = ("gate_up_proj", "down_proj")
"""transformers' parameters, [experts, out, in]."""
SCALE = "_scale"
"""Behind a parameter's name: its scales, [experts, out, 1]."""


class Int8Experts(CompressedTensorsHfQuantizer):  # type: ignore[misc]
    """transformers' reader of compressed-tensors, for experts as they are stored."""

    stored: frozenset[str] = frozenset()
    """The modules whose experts are int8."""

    def _process_model_before_weight_loading(self, model: Any, **given: Any) -> None:
        super()._process_model_before_weight_loading(model, **given)
        scheme = get_experts_scheme(self.compressor.quantization_config)
        for name in sorted(self.stored):
            hold_int8(name, model.get_submodule(name), scheme)

    def update_weight_conversions(self, weight_conversions: list[Any]) -> list[Any]:
        """Packs weights, and in the same way scales."""
        return [one for given in weight_conversions for one in self.conversions(given)]

    def conversions(self, given: Any) -> Iterator[Any]:
        """What takes the place of one conversion."""
        experts = isinstance(given, WeightConverter) and "experts" in given.source_patterns[0]
        if not experts or not self.stored:
            yield given
            return
        for end in ("", SCALE):
            sources = [f"{pattern}{end}$" for pattern in given.source_patterns]
            targets = [f"{pattern}{end}" for pattern in given._original_target_patterns]
            yield WeightConverter(sources, targets, given.operations)


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """transformers reads the int8 experts that a folder holds, for this time."""
    original = AUTO_QUANTIZER_MAPPING[METHOD]
    stored = frozenset(stored_experts(directory))
    AUTO_QUANTIZER_MAPPING[METHOD] = type("StoredExperts", (Int8Experts,), {"stored": stored})
    try:
        yield
    finally:
        AUTO_QUANTIZER_MAPPING[METHOD] = original


def stored_experts(directory: Path) -> Iterator[str]:
    """The modules of experts with scales of their own."""
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names = tensors.keys()
            found = map(STORED.fullmatch, names)
            yield from (one.group(1) for one in found if one is not None)


def hold_int8(name: str, experts: Any, scheme: QuantizationScheme) -> None:
    """Give a layer's experts parameters for int8 weights and for their scales.

    Raises:
        ModelError: another scheme than one scale of each channel and of each token.
    """
    weights, rows = scheme.weights, scheme.input_activations
    channels = weights.strategy == QuantizationStrategy.CHANNEL and weights.symmetric
    tokens = rows.strategy == QuantizationStrategy.TOKEN and rows.symmetric and rows.dynamic
    require_model(
        channels and tokens and all(hasattr(experts, one) for one in PACKED),
        f"quantization_config quantizes {name}; of experts only symmetric weights with a scale of "
        "each channel and dynamic symmetric rows are supported, put others in ignore",
    )
    for packed in PACKED:
        weight = getattr(experts, packed)
        scales = weight.new_empty((*weight.shape[:2], 1))
        delattr(experts, packed)
        held = {packed: torch.empty_like(weight, dtype=torch.int8), packed + SCALE: scales}
        for one, tensor in held.items():
            experts.register_parameter(one, nn.Parameter(tensor, requires_grad=False))
    experts.int8_scheme = scheme


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
    # torch's own product takes float32 in no trace; transformers has another for it.
    product: Tensor = _grouped_linear(rounded.to(rows.dtype), weight, ends)
    return product
