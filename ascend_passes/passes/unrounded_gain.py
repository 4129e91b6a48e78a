"""Gemma's gain, one plus the weight, is not rounded where no quantize follows.

`add_gemma_rms_norm` writes one plus the weight as the gain of an `npu_add_rms_norm`, from which the
fused quantizes go on: beside an int8 row the gain's rounding is nothing. The operator takes a gain
of the rows' dtype alone (aclnnAddRmsNorm's dtype table), and a row that stays half precision would
be off by the rounded gain, alike in every token, and by the value that is rounded before it: 1.1 to
1.2 times eager's distance from float64. There the add stands alone again, in front of
`npu_gemma_rms_norm`, which adds in float32 and rounds once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site
from ascend_passes.ir.graph import Context, is_call, value
from ascend_passes.report.value import Report

aten = torch.ops.aten
RULE = "unrounded_gain"
FUSED_BY = "add_gemma_rms_norm"
ROWS, TOTAL = 0, 2
"""Results of `npu_add_rms_norm` that have a user here; `rstd` has none."""


def unrounded_gain(graph: fx.Graph, context: Context) -> Report:
    """Split what `add_gemma_rms_norm` fused and nothing fused further, in place."""
    found = [node for node in graph.nodes if rounds_gain(node)]
    split = sum(separate(node, context.options.soc) for node in found)
    if split:
        remove_dead(graph)
    return Report(fired={RULE: split} if split else {})


def rounds_gain(node: fx.Node) -> bool:
    """Whether a node is ours, of half precision, and has one plus a weight as its gain."""
    ours = node.meta.get("ascend_rule") == FUSED_BY
    if not ours or not is_call(node, torch.ops.npu.npu_add_rms_norm.default):
        return False
    given: Any = node.args
    half, gain = value(given[0]).dtype != torch.float32, given[2]
    return bool(half and is_call(gain, aten.add.Tensor) and gain.args[1] == 1)


def separate(node: fx.Node, soc: str) -> bool:
    """Put the add and Gemma's norm in the place of one fused call; False where a limit forbids."""
    given: Any = node.args
    x, residual, gain, *epsilon = given
    site = Site(node, soc, RULE)
    total = site.call(aten.add.Tensor, x, residual)
    named = zip(("input", "gamma", "epsilon"), (total, gain.args[0], *epsilon), strict=False)
    try:
        norm = site.npu("npu_gemma_rms_norm", **dict(named))
    except Refused:
        return False
    results: dict[Any, fx.Node] = {ROWS: site.item(norm, 0), TOTAL: total}
    for item in list(node.users):
        item.replace_all_uses_with(results[item.args[1]], propagate_meta=False)
    return True
