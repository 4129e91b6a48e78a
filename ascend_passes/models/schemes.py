"""Which compressed-tensors checkpoints are read: int8 weights and int8 activations.

What is not read is refused by a sentence that names the field of `quantization_config`, so that no
scheme is taken for another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from compressed_tensors.quantization import (
    ActivationOrdering,
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
    QuantizationType,
)
from compressed_tensors.quantization.utils import is_module_quantized
from torch import nn

from ascend_passes.models import ModelError

FORMATS = ("int-quantized", "naive-quantized")
"""compressed-tensors formats that store int8 weights as they are multiplied."""
WEIGHT_STRATEGIES = (
    QuantizationStrategy.TENSOR,
    QuantizationStrategy.CHANNEL,
    QuantizationStrategy.GROUP,
)
"""Scales whose shape alone says what they belong to."""
STATIC_STRATEGIES = (QuantizationStrategy.TENSOR,)
DYNAMIC_STRATEGIES = (QuantizationStrategy.TENSOR, QuantizationStrategy.TOKEN)
ELSEWHERE = ("sparsity_config", "transform_config")
"""What a checkpoint may hold beside its quantization."""
LEFT_OVER = ("_scale", "_zero_point", "_packed", "_shape", "_g_idx")
"""Ends of names that only quantized layers have."""
Refusals = Iterator[tuple[bool, str]]
"""(whether it is as it must be, the sentence where it is not)."""


def check_quantization(quantization: Any) -> None:
    """Raise ModelError for anything but W8A8 by compressed-tensors.

    Args:
        quantization: `quantization_config` as `config.json` has it, None where it has none.
    """
    if quantization is None:
        return
    require_model(isinstance(quantization, Mapping), "quantization_config must be a JSON object")
    for holds, sentence in stored(quantization):
        require_model(holds, sentence)
    try:
        config = QuantizationConfig.model_validate(quantization)
    except Exception as error:  # the library's validators raise what they like
        raise ModelError(f"quantization_config cannot be read: {one_line(error)}") from error
    for holds, sentence in supported(config):
        require_model(holds, sentence)


def require_model(holds: bool, sentence: str) -> None:
    """Raise ModelError with the sentence unless `holds`."""
    if not holds:
        raise ModelError(f"{sentence}.")


def one_line(error: BaseException) -> str:
    """An error of a library without its line breaks and not longer than a line or two."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:297]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def stored(quantization: Mapping[str, Any]) -> Refusals:
    """How the weights are stored, before anything else of the configuration is believed."""
    method, form = quantization.get("quant_method"), quantization.get("format")
    yield (
        method == "compressed-tensors",
        f"quantization by {method!r} is not supported; "
        "quantize to W8A8 with compressed-tensors, for instance through llm-compressor",
    )
    yield (
        form in FORMATS,
        f"compressed-tensors format {form!r} is not supported; "
        f"supported: {', '.join(FORMATS)} (int8 weights and int8 activations)",
    )
    for name in ELSEWHERE:
        yield (
            not meaningful(quantization.get(name)),
            f"quantization_config.{name} is not supported; save the model without it",
        )
    whole = quantization.get("dequantize", False) or quantization.get("run_compressed") is False
    yield (
        not whole,
        "quantization_config asks for float weights; remove its dequantize and run_compressed",
    )


def meaningful(part: Any) -> bool:
    """Whether a part of the configuration asks for anything; empty and dense ones do not."""
    if not isinstance(part, Mapping):
        return bool(part)
    return any(item and item != "dense" for item in part.values())


def supported(config: QuantizationConfig) -> Refusals:
    """The whole configuration, then each of its groups."""
    status = config.quantization_status
    yield (
        status == QuantizationStatus.COMPRESSED,
        f"quantization_config.quantization_status is {status.value!r}: the weights are not stored "
        "in int8; compress the model before saving it",
    )
    yield (
        config.kv_cache_scheme is None,
        "quantization_config.kv_cache_scheme is not supported; quantize without it",
    )
    yield bool(config.config_groups), "quantization_config.config_groups is empty"
    for name, scheme in config.config_groups.items():
        yield from supported_scheme(f"config_groups.{name}", scheme)


def supported_scheme(where: str, scheme: QuantizationScheme) -> Refusals:
    """One group of layers."""
    form = getattr(scheme.format, "value", scheme.format)
    yield (
        form is None or form in FORMATS,
        f"{where}.format {form!r} is not supported; supported: {', '.join(FORMATS)}",
    )
    for name in ("weights", "input_activations"):
        part = getattr(scheme, name)
        yield (
            part is not None,
            f"{where}.{name} is missing; quantize weights and activations to int8",
        )
        yield from supported_numbers(f"{where}.{name}", part)
    yield (
        scheme.output_activations is None,
        f"{where}.output_activations is not supported; quantize inputs alone",
    )
    yield from supported_weights(f"{where}.weights", scheme.weights)
    yield from supported_activations(f"{where}.input_activations", scheme.input_activations)


def supported_numbers(where: str, part: QuantizationArgs) -> Refusals:
    """int8 in both."""
    yield (
        part.type == QuantizationType.INT and part.num_bits == 8,
        f"{where} has type {part.type!r} and num_bits {part.num_bits}, only int with 8 is "
        "supported; quantize to W8A8",
    )


def supported_weights(where: str, part: QuantizationArgs) -> Refusals:
    """Scales of a tensor, a channel or a group, made once and in the order of the columns."""
    yield not part.dynamic, f"{where}.dynamic is {part.dynamic!r}; weights need stored scales"
    yield from supported_strategy(where, part, WEIGHT_STRATEGIES)
    yield (
        part.actorder != ActivationOrdering.GROUP,
        f"{where}.actorder 'group' is not supported; quantize with actorder 'weight' or none",
    )


def supported_activations(where: str, part: QuantizationArgs) -> Refusals:
    """Stored for the tensor, or taken from each tensor or token."""
    yield part.dynamic in (True, False), f"{where}.dynamic {part.dynamic!r} is not supported"
    allowed = DYNAMIC_STRATEGIES if part.dynamic else STATIC_STRATEGIES
    yield from supported_strategy(where, part, allowed)


def supported_strategy(
    where: str, part: QuantizationArgs, allowed: tuple[QuantizationStrategy, ...]
) -> Refusals:
    """One of the allowed strategies."""
    names = ", ".join(strategy.value for strategy in allowed)
    kind = "dynamic " if part.dynamic else ""
    strategy = QuantizationStrategy(part.strategy).value
    yield (
        part.strategy in allowed,
        f"{where}.strategy {strategy!r} is not supported; supported {kind}strategies: {names}",
    )


def check_layers(model: nn.Module, unexpected: set[str]) -> None:
    """Raise ModelError where a loaded model is not what the configuration said.

    Args:
        model: with the weights as they are stored.
        unexpected: names of stored tensors that no layer took.
    """
    for name in sorted(unexpected):
        require_model(
            not name.endswith(LEFT_OVER) or name.endswith("_zero_point"),
            f"the stored tensor {name} belongs to a quantized layer, but quantization_config does "
            "not quantize it; correct config_groups or ignore",
        )
    for name, layer in model.named_modules():
        if is_module_quantized(layer):
            check_layer(name, layer)


def check_layer(name: str, layer: nn.Module) -> None:
    """Raise ModelError for a quantized layer that cannot be run from its int8 weight."""
    require_model(
        isinstance(layer, nn.Linear),
        f"quantization_config quantizes {name}, a {type(layer).__name__}; only linear layers are "
        "supported, put it in ignore",
    )
    kind = str(layer.weight.dtype).removeprefix("torch.")
    require_model(
        layer.weight.dtype == torch.int8,
        f"{name}.weight is {kind} where quantization_config says int8; put the layer in ignore or "
        "save it compressed",
    )
