"""What the cost model says of the finished graphs: traced without weights, devices or processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from qwen3_stack import Shape, Stack
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from ascend_passes.compile.option_values import checked_options
from ascend_passes.compile.pipeline import run_stages
from ascend_passes.cost import model as cost
from ascend_passes.cost import profiles
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.ir import trace
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.graph import Context
from ascend_passes.options.plans import pick, plans

GROUP = "tp"


def prefill_graph(shape: Shape, layers: int, world: int, tokens: int) -> fx.Graph:
    """One rank's functional graph of a prefill step, as it is before the passes."""
    with FakeTensorMode():
        model = Stack(shape, layers, world, GROUP, "cpu", seed=0).spelled("npu")
        ids = torch.zeros(tokens, dtype=torch.int64)
        names, values = zip(*model.named_buffers(), strict=True)

    def step(ids: Tensor, *values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(
            model, dict(zip(names, values, strict=True)), (ids,)
        )
        return found

    return trace.trace(step, [ids, *values]).graph


def finished_milliseconds(
    shape: Shape,
    layers: int,
    world: int,
    tokens: int,
    variants: Mapping[str, Mapping[str, Any]],
    profile: str,
) -> dict[str, float]:
    """Variant -> the estimate of its graph after all passes.

    Args:
        shape: the model's sizes.
        layers: how many.
        world: ranks.
        tokens: rows of the step.
        variants: name -> options.
        profile: name or file of the device's figures.
    """
    found = {}
    with assuming(Group(GROUP, world, 0)):
        graph = prefill_graph(shape, layers, world, tokens)
        for name, given in variants.items():
            options = checked_options({"profile": profile, **given})
            gm = fx.GraphModule(torch.nn.Module(), copied(graph))
            run_stages(gm, Context(options, pick(plans(options), tokens)))
            estimate = cost.estimate(gm.graph, profiles.read_profile(profile))
            found[name] = estimate.seconds * 1e3
    return found
