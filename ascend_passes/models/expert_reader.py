"""transformers' reader of compressed-tensors checkpoints, for experts in int8.

transformers packs the experts of a layer into two parameters. Of a checkpoint by compressed-tensors
it knows how to pack floats alone; here the int8 weights are packed as they are, and their scales
beside them. It is imported where a folder holds such experts, since older transformers pack none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationScheme, QuantizationStrategy
from torch import nn
from transformers.core_model_loading import WeightConverter
from transformers.integrations.compressed_tensors import get_experts_scheme
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_compressed_tensors import CompressedTensorsHfQuantizer

from ascend_passes.models.int8_experts import PACKED, SCALE
from ascend_passes.models.schemes import require_model

METHOD = "compressed-tensors"


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
def packing(stored: frozenset[str]) -> Iterator[None]:
    """transformers packs the int8 experts of these modules, for this time."""
    original = AUTO_QUANTIZER_MAPPING[METHOD]
    AUTO_QUANTIZER_MAPPING[METHOD] = type("StoredExperts", (Int8Experts,), {"stored": stored})
    try:
        yield
    finally:
        AUTO_QUANTIZER_MAPPING[METHOD] = original


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
