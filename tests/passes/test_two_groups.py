"""FlashComm deals out the rows of one group: of two mesh dimensions, the busier one."""

from __future__ import annotations

import torch
from torch import Tensor

from ascend_passes.distributed.groups import Group, assuming, group_name
from ascend_passes.ir.graph import Context, operator_name
from ascend_passes.options.plans import Plan
from ascend_passes.options.value import Options
from ascend_passes.passes.flashcomm.sequence_parallel import OTHER_RANKS, sequence_parallel
from tests.graphs import traced

RANKS = 2


def summed(part: Tensor, group: str) -> Tensor:
    functional = torch.ops._c10d_functional
    return functional.wait_tensor(functional.all_reduce(part, "sum", group))


def copied(target: Tensor, source: Tensor) -> Tensor:
    """What an all_reduce in place becomes."""
    return torch.ops.aten.copy.default(target, source)


def model(x: Tensor, w: Tensor) -> Tensor:
    for _ in range(2):
        x = x + torch.tanh(summed(x @ w, "tp"))
    for _ in range(2):  # each sum is written into what the sum before it gave
        x = copied(torch.tanh(x), summed(x @ w, "tp"))
    total = torch.tanh(x)
    return copied(total, summed(total, "dp")) * 2


def test_only_the_busier_group_is_dealt_out() -> None:
    graph = traced(model, [torch.ones(4, 8), torch.ones(8, 8)]).graph
    options = Options(flashcomm=True, passes="-sequence_parallel.cost")
    with assuming(Group("tp", RANKS, 0), Group("dp", RANKS, 0)):
        report = sequence_parallel(graph, Context(options, Plan("all", 1, 100, flashcomm=True)))
    graph.lint()
    assert report.fired == {"sequence_parallel": 3}  # the last sum is read whole at once
    assert [miss.reason for miss in report.misses if "other ranks" in miss.reason] == [OTHER_RANKS]
    calls = [node for node in graph.nodes if operator_name(node).startswith("_c10d")]
    rows = [node for node in calls if "scatter" in node.name or "gather" in node.name]
    assert rows and {group_name(node) for node in rows if "wait" not in node.name} == {"tp"}
