"""Casts inside a piece that keep less than its inputs and its result: their rounding is meant."""

from __future__ import annotations

import torch
from torch import fx

from ascend_passes.ir.graph import first
from ascend_passes.ir.wording import name
from ascend_passes.meaning.cone import Cone, fake_tensor
from ascend_passes.meaning.vocabulary import CASTS


def refuse_narrowing(cone: Cone) -> str | None:
    """Why a piece with a floating result may not become an operator that rounds at its ends alone.

    A value is rounded to a floating dtype with a shorter mantissa than the sources and the result
    have, or becomes an integer or a bool, which a probe in float64 does not see.
    """
    if not step_above_one(cone.out):
        return None
    coarsest = max(map(step_above_one, (*cone.sources, cone.out)))
    for node in cone.nodes:
        if node.target not in CASTS or not step_above_one(first(node)):
            continue
        if step_above_one(node) > coarsest or not step_above_one(node):
            kind = str(fake_tensor(node).dtype).removeprefix("torch.")  # type: ignore[union-attr]
            return f"{name(node)} rounds to {kind} in the middle of wider values"
    return None


def step_above_one(node: fx.Node) -> float:
    """The step above one of a node's floating dtype; 0 for what is not floating."""
    fake = fake_tensor(node)
    floating = fake is not None and fake.dtype.is_floating_point
    return torch.finfo(fake.dtype).eps if floating else 0.0  # type: ignore[union-attr]
