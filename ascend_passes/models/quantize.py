"""W8A8 through compressed-tensors: int8 weights per channel, activations per tensor or token.

compressed-tensors 0.17 has no integer kernel: its compressed linear layers turn back into float
ones at the first forward. Here the weights stay int8 and each forward writes out what the numbers
mean, with the library's own `forward_quantize` and `dequantize`; the passes recognize that.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
    QuantizationType,
    apply_quantization_config,
)
from compressed_tensors.quantization.lifecycle.forward import (
    dequantize,
    fake_quantize,
    forward_quantize,
)
from compressed_tensors.quantization.utils import calculate_qparams, is_module_quantized
from torch import Tensor, nn

ACTIVATIONS = ("static", "dynamic")


def scheme(activations: str) -> QuantizationScheme:
    """The W8A8 scheme: symmetric int8, weights per output channel.

    Args:
        activations: "static" for one calibrated scale per tensor, "dynamic" for one per token.
    """
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations is {activations!r}; valid values: {', '.join(ACTIVATIONS)}.")
    dynamic = activations == "dynamic"
    strategy = QuantizationStrategy.TOKEN if dynamic else QuantizationStrategy.TENSOR
    return QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(
            num_bits=8, type=QuantizationType.INT, strategy=QuantizationStrategy.CHANNEL
        ),
        input_activations=QuantizationArgs(
            num_bits=8, type=QuantizationType.INT, strategy=strategy, dynamic=dynamic
        ),
    )


def quantize_model(model: nn.Module, activations: str, calibration: Tensor) -> ModelCompressor:
    """Quantize every linear layer but the language-model head in place; weights become int8.

    Args:
        model: a causal language model with float weights.
        activations: "static" or "dynamic".
        calibration: token ids `[batch, tokens]`; static input scales cover what these produce.

    Returns:
        The compressor, whose `update_config` completes a saved checkpoint.
    """
    config = QuantizationConfig(
        config_groups={"linear": scheme(activations)},
        ignore=["lm_head"],
        quantization_status=QuantizationStatus.INITIALIZED,
    )
    ranges = observe(model, calibration) if activations == "static" else {}
    apply_quantization_config(model, config)
    for name, layer in quantized_layers(model):
        calibrate(layer, ranges.get(name))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    keep_compressed(model)
    return compressor


def observe(model: nn.Module, token_ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The least and the greatest input of each linear layer during one float forward."""
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            ranges[name] = tuple(torch.aminmax(inputs[0]))  # type: ignore[assignment]

        return hook

    handles = [
        layer.register_forward_pre_hook(watch(name))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with torch.no_grad():
            model(input_ids=token_ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return ranges


@torch.no_grad()
def calibrate(layer: Any, observed: tuple[Tensor, Tensor] | None) -> None:
    """Fill the scales of one layer: the weight's from its rows, the input's from what was seen."""
    quantization = layer.quantization_scheme
    weight = layer.weight
    scale, _ = calculate_qparams(
        weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), quantization.weights
    )
    layer.weight_scale.copy_(scale)
    if observed is not None:
        scale, _ = calculate_qparams(*observed, quantization.input_activations)
        layer.input_scale.copy_(scale)
    layer.quantization_status = QuantizationStatus.FROZEN


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of each linear layer with a quantization scheme."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and is_module_quantized(layer):
            yield name, layer


def keep_compressed(model: nn.Module) -> None:
    """Run a compressed model from its int8 weights; do not decompress it at the first forward."""
    ModelCompressor().remove_decompression_hook(model)
    for _, layer in quantized_layers(model):
        layer.forward = MethodType(int8_forward, layer)


def int8_forward(layer: Any, value: Tensor) -> Tensor:
    """Quantize the input, read the int8 weight through its scales and zero points, multiply.

    Args:
        layer: a compressed linear layer of a scheme that `models.schemes` lets through; weight
            `[out, in]` int8, `weight_scale` of one number, `[out, 1]` or `[out, groups]`, and
            `weight_zero_point` alike in int8 where the scheme is asymmetric.
        value: `[..., in]` in the model's dtype.
    """
    quantization = layer.quantization_scheme
    if quantization.input_activations.dynamic:
        given = dynamic_numbers(value, quantization.input_activations)
        rounded = fake_quantize(value, *given, quantization.input_activations).to(value.dtype)
    else:
        rounded = forward_quantize(layer, value, "input", quantization.input_activations)
    zero_point = getattr(layer, "weight_zero_point", None)
    weight = dequantize(layer.weight, layer.weight_scale, zero_point, args=quantization.weights)
    return nn.functional.linear(rounded, weight, layer.bias)


def dynamic_numbers(value: Tensor, args: QuantizationArgs) -> tuple[Tensor, Tensor | None]:
    """The float32 scale and, where it is asymmetric, the zero point of each row or of the tensor.

    compressed-tensors has the same formula for the asymmetric ones, in code that Dynamo cannot
    trace.
    """
    dims = (-1,) if args.strategy == QuantizationStrategy.TOKEN else tuple(range(value.dim()))
    if args.symmetric:
        return largest_scale(value, dims), None
    low = value.float().amin(dims, keepdim=True).clamp(max=0)
    scale = (value.float().amax(dims, keepdim=True).clamp(min=0) - low) / 255
    scale = torch.where(scale == 0, 1.0, scale)
    return scale, torch.round(torch.clamp(-128 - low / scale, -128, 127))


def largest_scale(value: Tensor, dims: tuple[int, ...] = (-1,)) -> Tensor:
    """The float32 scale `max|value| / 127` over `dims`; 1 where all are zeros, which stay zeros.

    A checkpoint holds no dynamic scale: the runtime chooses it. This is the choice of vLLM's
    kernels and of `npu_dynamic_quant`; compressed-tensors divides by 127.5.
    """
    scale = value.float().abs().amax(dims, keepdim=True) / 127
    return torch.where(scale == 0, 1.0, scale)
