"""Small W8A8 checkpoints as Huawei's ModelSlim writes them, for vllm-ascend's own loader.

Weights are int8 with a scale for each output channel. Static layers have one input scale and an
offset, and a bias that takes the offset out again; dynamic layers have neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ascend_passes.models.build import small_model
from ascend_passes.models.quantize import observe
from tests.vllm.checkpoints import spread, write_tokenizer

METHODS = {"static": "W8A8", "dynamic": "W8A8_DYNAMIC"}
FLOAT = "FLOAT"
LEVELS, LOWEST = 255, -128


def make(folder: Path, activations: str, **changes: int) -> Path:
    """Write a Qwen3 in bfloat16 whose decoder layers are W8A8.

    Args:
        folder: where to.
        activations: "static" or "dynamic".
        changes: as for `small_model`.
    """
    model = spread(small_model("qwen3", torch.bfloat16, **changes))
    ranges = observe(model, torch.randint(3, 512, (2, 64)))
    state: dict[str, Tensor] = {}
    described: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        parts = {"": tensor}
        if ".layers." in name and layer in ranges:
            parts = quantized(tensor, ranges[layer] if activations == "static" else None)
        kind = METHODS[activations] if len(parts) > 1 else FLOAT
        for suffix, part in parts.items():
            key = f"{layer}.{suffix}" if suffix else name
            state[key], described[key] = part.contiguous(), kind
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    save_file(state, str(folder / "model.safetensors"), {"format": "pt"})
    (folder / "quant_model_description.json").write_text(json.dumps(described))
    write_tokenizer(folder, model.config.vocab_size)
    return folder


def exact(folder: Path) -> PreTrainedModel:
    """The model that a checkpoint's int8 weights stand for, activations as they are.

    In float32, which holds each weight; `models.reference` computes it in float64.
    """
    config = AutoConfig.from_pretrained(folder)
    state = load_file(str(folder / "model.safetensors"))
    wide = {
        name: tensor.float() * state.get(f"{name}_scale", torch.ones(1)).float()
        for name, tensor in state.items()
        if name.endswith(".weight")
    }
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(wide)
    return model.eval()


def quantized(weight: Tensor, seen: tuple[Tensor, Tensor] | None) -> Mapping[str, Tensor]:
    """What a layer stores for a weight [N, K]; `seen` is the range of a static layer's input."""
    wide = weight.float()
    scale = (wide.abs().amax(1, keepdim=True) / 127).to(weight.dtype)
    rounded = torch.round(wide / scale.float()).clamp(-127, 127).to(torch.int8)
    both = {"weight": rounded, "weight_scale": scale, "weight_offset": torch.zeros_like(scale)}
    if seen is None:
        return both
    low, high = (edge.float() for edge in seen)
    step = ((high - low) / LEVELS).to(weight.dtype)
    offset = torch.round(LOWEST - low / step.float()).clamp(LOWEST, 127).to(torch.int8)
    return {
        **both,
        "input_scale": step.reshape(1),
        "input_offset": offset.reshape(1),
        "quant_bias": -offset.int() * rounded.int().sum(1).int(),
        "deq_scale": step.float() * scale.float().flatten(),
    }
