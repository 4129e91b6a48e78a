"""Load a dense language model from a local Hugging Face directory, bf16, float32 or W8A8.

Whatever a folder holds, no code of it is run and none is fetched, and what cannot be loaded ends in
one `ModelError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ascend_passes.models import ModelError
from ascend_passes.models.int8_experts import reading, run_from_int8
from ascend_passes.models.quantize import keep_compressed, quantized_layers
from ascend_passes.models.schemes import check_layers, check_quantization, one_line
from ascend_passes.options.types import nearest

SUPPORTED = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3", "qwen3_moe")
"""Values of `model_type` whose layers the rules are tested with."""
DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
LAYER_TYPES = ("full_attention", "sliding_attention")
ATTENTION = "sdpa"
"""The attention that every model is loaded with, whatever its configuration asks for."""
ATTENTION_FIELDS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def load_model(directory: Path, dtype: str | None = None, device: str = "cpu") -> PreTrainedModel:
    """The model in evaluation mode; a W8A8 checkpoint keeps its int8 weights.

    Args:
        directory: holds `config.json` and safetensors files.
        dtype: a key of `DTYPES` for the activations; None for the checkpoint's own.
        device: where the weights go.

    Raises:
        ModelError: no such directory, files missing or damaged, or a kind of model that is not
            supported.
    """
    model = load_original(directory, dtype)
    if any(True for _ in quantized_layers(model)):
        keep_compressed(model)
    run_from_int8(model)
    return model.to(device).eval()


def load_original(directory: Path, dtype: str | None = None) -> PreTrainedModel:
    """The model as transformers alone loads it, in evaluation mode on the CPU; arguments and errors
    as in `load_model`."""
    config = read_config(directory)
    check_architecture(config)
    check_attention(directory / "config.json", config)
    check_quantization(config.get("quantization_config"))
    if dtype is not None and dtype not in DTYPES:
        valid = f"valid values: {', '.join(DTYPES)}.{nearest(dtype, DTYPES)}"
        raise ModelError(f"unknown dtype {dtype!r}; {valid}")
    if not any(directory.glob("*.safetensors")):
        raise ModelError(
            f"{directory} holds no *.safetensors file; download the weights beside config.json."
        )
    try:
        model, found = from_folder(directory, DTYPES[dtype] if dtype else "auto")
    except Exception as error:  # transformers and its parsers raise whatever comes up
        raise ModelError(
            f"{directory} cannot be loaded by transformers: {one_line(error)}; compare config.json "
            "and the weight files with the model's original."
        ) from error
    if found["missing_keys"]:
        names = ", ".join(sorted(found["missing_keys"])[:3])
        raise ModelError(
            f"{directory} lacks weights, such as {names}; download all its *.safetensors files."
        )
    check_shapes(directory, found["mismatched_keys"])
    check_layer_types(model.config)
    check_layers(model, found["unexpected_keys"])
    check_zero_points(directory, found["unexpected_keys"])
    return model.eval()


def from_folder(
    directory: Path, dtype: torch.dtype | str
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """transformers' own model and what it says about the weights, from safetensors files alone."""
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet(), reading(directory):
        config = AutoConfig.from_pretrained(directory, **given)
        config._attn_implementation = ATTENTION  # an argument would lose to the file
        config.return_dict = True
        model, found = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are told, and are refused in one line
            output_loading_info=True,
            **given,
        )
    return model, found


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without warnings: what matters of them is an error here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` as it is; errors as in `load_model`."""
    if not directory.is_dir():
        raise ModelError(
            f"{directory} is no directory; give a local Hugging Face model's folder."
            f"{folder_hint(directory)}"
        )
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"{directory} holds no config.json; give the folder of the model itself.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{file} is no valid JSON: {one_line(error)}. Download it again."
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} must hold a JSON object. Download it again.")
    return config


def folder_hint(path: Path) -> str:
    """What may have been meant: a folder beside it, its own folder, or a repository's name."""
    near = nearest(path.name, neighbours(path.parent))
    if near:
        return near
    if path.is_file():
        return f" Its own is {str(path.parent)!r}."
    words = path.parts
    if len(words) == 2 and path.parent != Path("/") and not path.parent.exists():
        return (
            f" Nothing is downloaded here; `hf download {path} --local-dir {path.name}` makes one."
        )
    return ""


def neighbours(folder: Path) -> list[str]:
    """The names of the folders in a folder; nothing where it cannot be read."""
    try:
        return [one.name for one in folder.iterdir() if one.is_dir()]
    except OSError:
        return []


def check_architecture(config: Mapping[str, Any]) -> None:
    """Raise ModelError for a `model_type` that is not in `SUPPORTED`."""
    model_type = config.get("model_type")
    if model_type in SUPPORTED:
        return
    hint = " Of Gemma 3, load the text model." if model_type == "gemma3" else ""
    raise ModelError(
        f"model_type {model_type!r} is not supported; "
        f"supported models: {', '.join(SUPPORTED)}.{hint or nearest(model_type, SUPPORTED)}"
    )


def check_attention(file: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError where a configuration names a repository whose code would be attention.

    Any other name is ignored, for `ATTENTION`.
    """
    pending: list[Any] = [config]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping):
            named = [part[field] for field in ATTENTION_FIELDS if field in part]
            if any(names_repository(value) for value in named):
                raise ModelError(
                    f"{file} asks for attention code of a repository, {named[0]!r}, which is not "
                    f"loaded; remove {' and '.join(ATTENTION_FIELDS[:2])} from it."
                )
        if isinstance(part, (Mapping, list)):
            pending += part.values() if isinstance(part, Mapping) else part


def names_repository(value: Any) -> bool:
    """Whether a value, or one inside it, is the name of a repository."""
    if isinstance(value, Mapping):
        return any(names_repository(item) for item in value.values())
    return isinstance(value, str) and "/" in value


def check_layer_types(config: PreTrainedConfig) -> None:
    """Raise ModelError for a kind of attention that the model loads with and does not run with."""
    kinds = set(getattr(config, "layer_types", None) or ())
    strange = sorted(map(str, kinds - set(LAYER_TYPES)))
    if strange:
        raise ModelError(
            f"layer_types has {strange[0]!r}; supported: {', '.join(LAYER_TYPES)}. "
            "Compare config.json with the model's original."
        )
    if "sliding_attention" in kinds and not getattr(config, "sliding_window", None):
        raise ModelError(
            "layer_types has 'sliding_attention' but there is no sliding_window; compare "
            "config.json with the model's original."
        )


def check_shapes(directory: Path, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    """Raise ModelError where weights have not the shape that the configuration gives them.

    Args:
        directory: of the model.
        mismatched: name, stored shape and configured shape of each.
    """
    for name, stored, wanted in sorted(mismatched):
        raise ModelError(
            f"{name} in {directory} is {list(stored)}, but config.json makes it {list(wanted)}; "
            "compare config.json with the model's original."
        )


def check_zero_points(directory: Path, unexpected: set[str]) -> None:
    """Raise ModelError where a scheme is symmetric by its name, but not by what is stored."""
    names = {name for name in unexpected if name.endswith("_zero_point")}
    for file in sorted(directory.glob("*.safetensors")) if names else ():
        with safe_open(file, framework="pt") as stored:
            for name in sorted(names.intersection(stored.keys())):
                if stored.get_tensor(name).any():
                    raise ModelError(
                        f"{name} in {file} is not zero, but quantization_config calls its scheme "
                        "symmetric; set symmetric to false."
                    )
