"""Tensor-parallel models that others wrote, tiny, on the ranks of a group."""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from cases import FORCED, compiled, relative
from stacks import Kind, multiplied
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import ascend_passes

SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "use_cache": False,
}
PROMPT, STEPS = 7, 4
COLUMNS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
)
ROWS = ("self_attn.o_proj", "mlp.down_proj")
NORMED = 4.0
"""Largest normalized activation that static quantization keeps."""
REACH = {"o_proj": 0.5, "down_proj": 0.06}
"""The same for inputs that are no norm's, at transformers' initial weights of 0.02."""


class Scores(nn.Module):
    """Only the scores of a causal language model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        scores = self.model(input_ids=ids).logits
        return scores.to_local() if hasattr(scores, "to_local") else scores


def transformers_model(family: str, folder: str, kind: Kind) -> nn.Module:
    """Sharded by transformers' own plan; W8A8 layers multiply their shard of the int8 weight."""
    import transformers
    from transformers.distributed.tensor_parallel import TensorParallelLayer

    install = TensorParallelLayer.install_forward

    def install_quantized(style: Any, module: nn.Module, mesh: Any) -> nn.Module:
        if kind.quantized and isinstance(module, nn.Linear):
            module.forward = MethodType(int8_forward, module)
        return install(style, module, mesh)

    config = getattr(transformers, f"{family}Config")(**SIZES)
    made = getattr(transformers, f"{family}ForCausalLM")
    path = Path(folder, f"{family}{dist.get_world_size()}")
    if dist.get_rank() == 0:
        torch.manual_seed(0)
        made(config).save_pretrained(path)
    dist.barrier()
    with mock.patch.object(TensorParallelLayer, "install_forward", install_quantized):
        model = made.from_pretrained(path, tp_plan="auto", dtype=kind.dtype).eval()
    for name, module in model.model.layers.named_modules() if kind.quantized else ():
        if isinstance(module, nn.Linear):
            quantize(module, kind.quantized, REACH.get(name.rpartition(".")[2], NORMED))
    return model


def quantize(layer: nn.Linear, activations: str, reach: float) -> None:
    """Give a sharded layer the int8 form of its shard; static inputs are clamped to `reach`."""
    weight = layer.weight.to_local().float()
    scale = weight.abs().amax(1) / 127
    layer.quantized = activations
    layer.int8 = nn.Buffer((weight / scale[:, None]).round().to(torch.int8))
    layer.scale = nn.Buffer(scale)
    layer.input_scale = nn.Buffer(torch.tensor([reach / 127]))
    layer.input_offset = nn.Buffer(torch.zeros(1, dtype=torch.int32))


def int8_forward(layer: Any, x: Tensor) -> Tensor:
    if not hasattr(layer, "int8"):  # the head
        return nn.functional.linear(x, layer.weight)
    return multiplied(
        x, layer.quantized, layer.int8, layer.scale, layer.input_scale, layer.input_offset, None
    )


def torch_model(family: str, _: str, kind: Kind) -> nn.Module:
    """Sharded by torch's `parallelize_module`."""
    import transformers

    torch.manual_seed(0)
    model = (
        getattr(transformers, f"{family}ForCausalLM")(
            getattr(transformers, f"{family}Config")(**SIZES)
        )
        .eval()
        .to(kind.dtype)
    )
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {name: ColwiseParallel() for name in COLUMNS} | {
        name: RowwiseParallel() for name in ROWS
    }
    for layer in model.model.layers:
        parallelize_module(layer, mesh, plan)
    return model


def greedy(scores: Any, ids: Tensor) -> list[int]:
    """Greedy tokens after a prompt, the whole text again for each."""
    for _ in range(STEPS):
        ids = torch.cat([ids, scores(ids)[:, -1:].argmax(-1)], dim=1)
    return ids[0, -STEPS:].tolist()


def case(
    make: Any, family: str, folder: str, kind: Kind, seed: int
) -> tuple[list[int], list[int], int, float]:
    """(tokens of the unrewritten model, of the rewritten one, rewritten all_reduces, error).

    The error is that of the prompt's scores, as `cases.Outcome` has it.
    """
    model = Scores(make(family, folder, kind))
    torch.manual_seed(seed)
    ids = torch.randint(0, SIZES["vocab_size"], (1, PROMPT))
    dist.broadcast(ids, 0)
    rewritten = compiled(model, {"passes": FORCED}, dynamic=True)
    with torch.no_grad():
        expected, found = greedy(model, ids), greedy(rewritten, ids)
        error = relative(rewritten(ids), model(ids))
    reports = ascend_passes.reports()
    assert not (errors := [e for report in reports for e in report.errors]), errors
    fired = sum(report.fired.get("sequence_parallel", 0) for report in reports)
    return expected, found, fired, error
