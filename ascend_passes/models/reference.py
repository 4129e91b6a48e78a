"""A model in float64, its quantized layers by compressed-tensors: the yardstick for all else.

Nothing that this project computes takes part but one number: a checkpoint with dynamic activations
holds no scale, and the scale that `quantize.largest_scale` documents is written out here again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor, decompress_module
from compressed_tensors.quantization import QuantizationStatus, QuantizationStrategy
from compressed_tensors.quantization.lifecycle.forward import set_forward_quantized
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from ascend_passes.models.exact_experts import experts_in_double
from ascend_passes.models.generate import Progress, logits_of, new_cache, no_progress
from ascend_passes.models.quantize import quantized_layers


class InDouble(TorchFunctionMode):
    """Every request for float32 becomes one for float64, so that no norm or table rounds early."""

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `function` with float32 replaced in its arguments."""
        if function is Tensor.float:
            return arguments[0].double()
        given = [widened(argument) for argument in arguments]
        return function(*given, **{name: widened(v) for name, v in (keywords or {}).items()})


def widened(argument: Any) -> Any:
    """float64 for float32, anything else as it is."""
    return torch.float64 if argument is torch.float32 else argument


def in_double(model: PreTrainedModel) -> PreTrainedModel:
    """`model` itself, made float64; int8 weights are read back, and their layers run, by
    compressed-tensors.

    Args:
        model: as transformers loaded it, or as this project runs it from its int8 weights.
    """
    model.to(torch.float64)
    experts_in_double(model)
    ModelCompressor().remove_decompression_hook(model)
    for _, layer in quantized_layers(model):
        if layer.quantization_status == QuantizationStatus.COMPRESSED:
            decompress_module(layer)
        vars(layer).pop("forward", None)
        set_forward_quantized(layer)
        if layer.quantization_scheme.input_activations.dynamic:
            choose_scale(layer)
    return model


def choose_scale(layer: Any) -> None:
    """Quantize the layer's input by the scale that this project documents; the library's own code
    has another divisor where the scheme is symmetric."""
    args = layer.quantization_scheme.input_activations
    if not args.symmetric:
        return
    layer.quantization_enabled = False

    def rounded(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        value = inputs[0]
        rows = value.flatten(0, -2) if args.strategy == QuantizationStrategy.TOKEN else value[None]
        step: Tensor = torch.linalg.vector_norm(rows.flatten(1), torch.inf, dim=1) / 127
        step = step.where(step != 0, 1).reshape(-1, *(1,) * (rows.dim() - 1))
        return torch.mul(torch.round(rows / step), step).reshape(value.shape)

    layer.register_forward_pre_hook(rounded)


def reference_logits(
    model: PreTrainedModel, prompt: Tensor, following: Tensor, progress: Progress = no_progress
) -> Tensor:
    """`logits_of` in float64 for the same weights; int8 weights are multiplied by their scales.

    Args:
        model: left as it is; a copy computes.
        prompt, following, progress: as in `generate.logits_of`.
    """
    return logits_in_double(in_double(copy.deepcopy(model)), prompt, following, progress)


def logits_in_double(
    model: PreTrainedModel, prompt: Tensor, following: Tensor, progress: Progress = no_progress
) -> Tensor:
    """`logits_of` for what `in_double` gave; arguments as in `reference_logits`."""
    batch, length = prompt.shape
    with InDouble():
        cache = new_cache(model, batch, length + following.shape[1])
        return logits_of(model, model, cache, prompt, following, progress)
