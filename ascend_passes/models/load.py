"""Load a dense language model from a local Hugging Face directory, bf16, float32 or W8A8."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from ascend_passes.models import ModelError
from ascend_passes.models.quantize import keep_compressed, quantized_layers

SUPPORTED = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose layers the rules are tested with."""
DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
W8A8_FORMATS = ("int-quantized", "naive-quantized")
"""compressed-tensors formats that store int8 weights as they are multiplied."""


def load_model(directory: Path, dtype: str | None = None, device: str = "cpu") -> PreTrainedModel:
    """The model in evaluation mode; a W8A8 checkpoint keeps its int8 weights.

    Args:
        directory: holds `config.json` and safetensors files.
        dtype: a key of `DTYPES` for the activations; None for the checkpoint's own.
        device: where the weights go.

    Raises:
        ModelError: no such directory, files missing, or a kind of model that is not supported.
    """
    config = read_config(directory)
    check_architecture(config)
    check_quantization(config.get("quantization_config"))
    if dtype is not None and dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; valid values: {', '.join(DTYPES)}.")
    if not any(directory.glob("*.safetensors")):
        raise ModelError(
            f"{directory} holds no *.safetensors file; download the weights beside config.json."
        )
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=DTYPES[dtype] if dtype else "auto",
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(f"{directory} cannot be loaded by transformers: {error}") from error
    if found["missing_keys"]:
        names = ", ".join(sorted(found["missing_keys"])[:3])
        raise ModelError(
            f"{directory} lacks weights, such as {names}; download all its *.safetensors files."
        )
    if any(True for _ in quantized_layers(model)):
        keep_compressed(model)
    return model.to(device).eval()


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` as it is; errors as in `load_model`."""
    if not directory.is_dir():
        raise ModelError(f"{directory} is no directory; give a local Hugging Face model's folder.")
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"{directory} holds no config.json; give the folder of the model itself.")
    try:
        config = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ModelError(f"{file} is no valid JSON: {error}. Download it again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} must hold a JSON object. Download it again.")
    return config


def check_architecture(config: Mapping[str, Any]) -> None:
    """Raise ModelError for a `model_type` that is not in `SUPPORTED`."""
    model_type = config.get("model_type")
    if model_type in SUPPORTED:
        return
    hint = " Of Gemma 3, load the text model." if model_type == "gemma3" else ""
    raise ModelError(
        f"model_type {model_type!r} is not supported; "
        f"supported dense models: {', '.join(SUPPORTED)}.{hint}"
    )


def check_quantization(quantization: Mapping[str, Any] | None) -> None:
    """Raise ModelError for a quantization other than W8A8 by compressed-tensors."""
    if quantization is None:
        return
    method, form = quantization.get("quant_method"), quantization.get("format")
    if method != "compressed-tensors":
        raise ModelError(
            f"quantization by {method!r} is not supported; "
            "quantize to W8A8 with compressed-tensors, for instance through llm-compressor."
        )
    if form not in W8A8_FORMATS:
        raise ModelError(
            f"compressed-tensors format {form!r} is not supported; "
            f"supported: {', '.join(W8A8_FORMATS)} (int8 weights and int8 activations)."
        )
