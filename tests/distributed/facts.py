"""What runs on every rank: weights and numbers of one rank that the others know nothing of."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from cases import compiled
from torch import Tensor, nn

import ascend_passes


class Biased(nn.Module):
    """`x` meets two biases, then a sum over ranks; equal biases are merged."""

    def __init__(self, one: float, other: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8))
        self.one = nn.Parameter(torch.full((8,), one))
        self.other = nn.Parameter(torch.full((8,), other))

    def forward(self, x: Tensor, factor: float) -> Tensor:
        y = x @ self.weight
        y = torch.tanh(y + self.one) + torch.tanh(y + self.other) * factor
        return functional.all_reduce(y, "sum", dist.group.WORLD.group_name)


def written(case: str) -> tuple[list[bool], int, int]:
    """(whether each call was right, merged parameters, reports) on this rank."""
    first, seen = dist.get_rank() == 0, []
    differs = case == "equal on one rank" and not first
    model, x, factor = Biased(0.5, 0.25 if differs else 0.5), torch.randn(3, 8), 2.0
    step = compiled(model, {"flashcomm": False}, dynamic=True)
    with torch.no_grad():
        for turn in range(7):
            if turn == 2 and case in ("equal on one rank", "all write alike"):
                model.one.fill_(0.125)
                model.other.fill_(0.125)
            if turn == 3 and (first or case != "one rank writes"):
                model.other.fill_(0.75)
            if case == "one rank's number":
                factor = 2.0 + (turn if first else 0)
            seen.append(torch.allclose(step(x, factor), model(x, factor), atol=1e-6))
    reports = ascend_passes.reports()
    return seen, sum(r.fired.get("merge_equal", 0) for r in reports), len(reports)
