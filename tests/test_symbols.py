"""A rewrite takes nothing away from what the model's symbolic sizes may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.engine.rewrite import rewrite
from ascend_passes.ir import trace
from ascend_passes.ir.graph import Context, value
from ascend_passes.options.plans import Plan
from ascend_passes.options.value import Options
from ascend_passes.passes.flashcomm.sequence_parallel import sequence_parallel
from tests.graphs import rule_named


def summed(part: Tensor) -> Tensor:
    functional = torch.ops._c10d_functional
    return functional.wait_tensor(functional.all_reduce(part, "sum", "tp"))


def layers(x: Tensor, weight: Tensor, gain: Tensor) -> Tensor:
    for _ in range(3):
        x = npu.npu_rms_norm(x + summed(x @ weight), gain, 1e-6)[0]
    return x


def dynamic_graph(x: Tensor) -> fx.Graph:
    """The graph of `layers` for any number of rows; nothing is run, for there is no group."""
    kept: list[fx.Graph] = []

    def compiler(gm: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        kept.append(gm.graph)
        return lambda *_: [x]

    def backend(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        return trace.compile_inference(gm, inputs, compiler)

    torch._dynamo.reset()
    torch._dynamo.mark_dynamic(x, 0)
    with torch.no_grad():
        torch.compile(layers, backend=backend)(x, torch.ones(8, 8), torch.ones(8))
    return kept[0]


def test_a_replacement_fixes_no_size_of_the_model() -> None:
    # Of two tokens each rank has one row, and tracing asks whether there is one row.
    x = torch.ones(2, 8)
    options = Options(flashcomm=True, passes="-sequence_parallel.cost")
    context = Context(options, Plan("all", 1, 100, flashcomm=True))
    with assuming(Group("tp", 2, 0)):
        graph = dynamic_graph(x)
        sharded = sequence_parallel(graph, context)
        report = rewrite(graph, rule_named("add_rms_norm"), context)
    assert sharded.fired == {"sequence_parallel": 3} and report.fired == {"add_rms_norm": 3}
    given = next(value(node) for node in graph.nodes if isinstance(value(node), Tensor))
    assert given.shape[0].node.expr.free_symbols
