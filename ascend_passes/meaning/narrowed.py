"""Casts inside a piece that keep less than its inputs and its result: their rounding is meant."""

from __future__ import annotations

import torch
from torch import fx

from ascend_passes.ir.wording import name
from ascend_passes.meaning.cone import Cone, fake_tensor
from ascend_passes.meaning.vocabulary import CASTS


def refuse_narrowing(cone: Cone) -> str | None:
    """Why a piece may not become an operator that rounds at its ends alone: a value is rounded to a
    floating dtype with a shorter mantissa than its sources and its result have."""
    ends = [step_above_one(node) for node in (*cone.sources, cone.out)]
    coarsest = max(ends, default=0.0)
    if not coarsest:
        return None
    for node in cone.nodes:
        if node.target in CASTS and step_above_one(node) > coarsest:
            kind = str(fake_tensor(node).dtype).removeprefix("torch.")  # type: ignore[union-attr]
            return f"{name(node)} rounds to {kind} in the middle of wider values"
    return None


def step_above_one(node: fx.Node) -> float:
    """The step above one of a node's floating dtype; 0 for what is not floating."""
    fake = fake_tensor(node)
    floating = fake is not None and fake.dtype.is_floating_point
    return torch.finfo(fake.dtype).eps if floating else 0.0  # type: ignore[union-attr]
