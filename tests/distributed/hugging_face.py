"""Tensor-parallel models that others wrote, tiny and in float32, on the ranks of a group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import FORCED, compiled
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


class Scores(nn.Module):
    """Only the scores of a causal language model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        scores = self.model(input_ids=ids).logits
        return scores.to_local() if hasattr(scores, "to_local") else scores


def transformers_model(family: str, folder: str) -> nn.Module:
    """Sharded by transformers' own plan."""
    import transformers

    config = getattr(transformers, f"{family}Config")(**SIZES)
    kind = getattr(transformers, f"{family}ForCausalLM")
    path = Path(folder, f"{family}{dist.get_world_size()}")
    if dist.get_rank() == 0:
        torch.manual_seed(0)
        kind(config).save_pretrained(path)
    dist.barrier()
    return kind.from_pretrained(path, tp_plan="auto").eval()


def torch_model(family: str, _: str) -> nn.Module:
    """Sharded by torch's `parallelize_module`."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(
        getattr(transformers, f"{family}Config")(**SIZES)
    ).eval()
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


def case(make: Any, family: str, folder: str, seed: int) -> tuple[list[int], list[int], int]:
    """(tokens of the unrewritten model, of the rewritten one, rewritten all_reduces)."""
    model = Scores(make(family, folder))
    torch.manual_seed(seed)
    ids = torch.randint(0, SIZES["vocab_size"], (1, PROMPT))
    dist.broadcast(ids, 0)
    rewritten = compiled(model, {"passes": FORCED}, dynamic=True)
    with torch.no_grad():
        expected, found = greedy(model, ids), greedy(rewritten, ids)
    reports = ascend_passes.reports()
    assert not any(report.errors for report in reports)
    return expected, found, sum(report.fired.get("sequence_parallel", 0) for report in reports)
