"""What a model gives under some options, and how far that is from the model left as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ascend_passes.models.exact import exact_forward
from ascend_passes.verify.exact import distance, magnitude

Run = Callable[[Callable[..., Any]], Any]
"""Calls what the model was compiled to, with inputs that are the same each time."""


def formula_distance(model: Callable[..., Any], run: Run, options: Mapping[str, Any]) -> float:
    """Relative distance of the rewritten graphs from the traced ones, both in float64.

    Raises:
        RuntimeError: a pass failed, or the rewritten graph does not run.
    """
    torch._dynamo.reset()
    wanted = outputs(run(exact_forward(model, {"off": True})))
    torch._dynamo.reset()
    return furthest(wanted, outputs(run(exact_forward(model, options))))


def own_distance(model: Callable[..., Any], run: Run, options: Mapping[str, Any]) -> float:
    """Relative distance of the compiled model from the uncompiled one, in the model's own dtype."""
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="ascend_dense", options=dict(options))
    return furthest(outputs(run(model)), outputs(run(compiled)))


def outputs(results: Any) -> list[Tensor]:
    """The tensors in a model's results."""
    return [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]


def furthest(wanted: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference of two results over the largest magnitude of that result."""
    if [one.shape for one in wanted] != [one.shape for one in found]:
        return float("inf")
    return max(map(relative, wanted, found), default=0.0)


def relative(wanted: Tensor, found: Tensor) -> float:
    """The largest difference over the largest magnitude; endless where one of them is no number."""
    wanted, found = wanted.cpu(), found.cpu()
    return distance(wanted, found, magnitude(wanted)) if wanted.numel() else 0.0
