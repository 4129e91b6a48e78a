"""Checkpoints of Qwen3-MoE in W8A8, as llm-compressor writes them: each expert's weights apart."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus
from safetensors.torch import load_file, save_file

from ascend_passes.models.build import small_model
from ascend_passes.models.quantize import scheme

LINEAR = ("_proj.weight",)
"""Ends of the names of what was a linear layer when it was quantized."""


def save_w8a8(folder: Path, seed: int = 0, dtype=torch.bfloat16, **changes) -> Path:
    """A small model with weights so large that tokens go to different experts."""
    model = small_model("qwen3_moe", dtype, seed, **changes)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name:
                noise = torch.randn(parameter.shape, generator=source)
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    written = {}
    for name, weight in stored.items():
        written |= quantized(name, weight) if name.endswith(LINEAR) else {name: weight}
    save_file(written, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def quantized(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """int8 numbers and the scale of each channel, as compressed-tensors stores them."""
    scale = (weight.float().abs().amax(1, keepdim=True) / 127.5).to(weight.dtype)
    numbers = (weight.float() / scale.float()).round().clamp(-128, 127).to(torch.int8)
    return {name: numbers, f"{name}_scale": scale}


def quantization() -> dict:
    """`quantization_config`, with routers and the head left out."""
    config = QuantizationConfig(
        config_groups={"group_0": scheme("dynamic")},
        ignore=["lm_head", "re:.*mlp.gate$"],
        quantization_status=QuantizationStatus.COMPRESSED,
        format="int-quantized",
    )
    return json.loads(config.model_dump_json())
