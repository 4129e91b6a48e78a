"""A small Qwen3-MoE of transformers on the ranks of a group, by its own plans."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import FORCED, compiled
from hugging_face import SIZES, Scores, greedy

import ascend_passes

EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
MASKED = {
    "model.layers.*.mlp.gate": "ep_router",
    "model.layers.*.mlp.experts": "moe_tp_experts",
}
"""The plan by which each rank has some experts and all tokens; transformers' own sends tokens."""
TENSOR, MASKS, SENDS = "tensor", "masks", "sends"
"""What is spread: each expert's columns; experts, of all tokens; experts, and tokens to them."""


@dataclass(frozen=True)
class Outcome:
    """What one rank saw."""

    expected: list[int]
    """Greedy tokens of the model as it is."""
    found: list[int]
    """The same, compiled."""
    fired: Counter[str]
    """Of all graphs together."""
    left: frozenset[str]
    """Reasons."""


def plan(spread: str) -> Any:
    """transformers' configuration of the group."""
    from transformers.distributed import DistributedConfig

    ranks = dist.get_world_size()
    own = {} if spread == TENSOR else {"ep_size": ranks}
    own |= {"ep_plan": MASKED} if spread == MASKS else {}
    return DistributedConfig(tp_size=ranks, tp_plan="auto", **own)


def expert_model(spread: str, folder: str) -> Scores:
    """float32, with weights so large that tokens go to different experts."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    path = Path(folder, f"{spread}{dist.get_world_size()}")
    if dist.get_rank() == 0:
        torch.manual_seed(0)
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(path)
    dist.barrier()
    spread_model = Qwen3MoeForCausalLM.from_pretrained(
        path, dtype=torch.float32, distributed_config=plan(spread)
    )
    return Scores(spread_model.eval())


def expert_case(spread: str, flashcomm: bool, folder: str, seed: int) -> Outcome:
    """Greedy tokens of a model and of what the passes make of it."""
    model = expert_model(spread, folder)
    torch.manual_seed(seed)
    ids = torch.randint(0, SIZES["vocab_size"], (1, 7))
    dist.broadcast(ids, 0)
    rewritten = compiled(model, {"flashcomm": flashcomm, "passes": FORCED}, dynamic=True)
    with torch.no_grad():
        expected, found = greedy(model, ids), greedy(rewritten, ids)
    reports = ascend_passes.reports()
    assert not (errors := [e for report in reports for e in report.errors]), errors
    fired = sum((Counter(report.fired) for report in reports), Counter())
    left = frozenset(one.reason for report in reports for one in report.left)
    return Outcome(expected, found, fired, left)
