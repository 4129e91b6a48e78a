"""The option `verify_each_stage`: a stage that leaves a broken graph is left out and told."""

from __future__ import annotations

import pytest
import torch

import ascend_passes
from ascend_passes.compile import pipeline
from ascend_passes.compile.stages import Stage
from ascend_passes.report.value import Report

aten = torch.ops.aten


def calls(graph):
    return [node for node in graph.nodes if node.op == "call_function"]


def reads_what_comes_later(graph, _):
    first, *_, last = calls(graph)
    first.args = (last,)
    return Report()


def notes_another_dtype(graph, _):
    node = calls(graph)[-1]
    node.meta["val"] = node.meta["val"].double()
    node.target = aten.cos.default
    return Report()


def takes_what_no_operator_takes(graph, _):
    node = calls(graph)[-1]
    node.args = (*node.args, 3, 4)
    return Report()


def returns_another_shape(graph, _):
    output = graph.output_node()
    (result,) = output.args[0]
    with graph.inserting_before(output):
        new = graph.call_function(aten.sum.default, (result,))
    new.meta["val"] = result.meta["val"].sum()
    output.args = ((new,),)
    return Report()


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (reads_what_comes_later, "used before"),
        (notes_another_dtype, "noted is"),
        (takes_what_no_operator_takes, "does not take its arguments"),
        (returns_another_shape, "the graph returns"),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_stage_that_breaks_the_graph_is_left_out(monkeypatch, stage, sentence, dynamic):
    added = Stage(stage.__name__, stage)
    monkeypatch.setattr(pipeline, "STAGES", (added, *pipeline.STAGES))
    torch._dynamo.reset()
    ascend_passes.reset()
    x = torch.randn(8, 64)
    options = {"verify_each_stage": True}

    def function(x):
        return x.sin().exp()

    compiled = torch.compile(function, backend="ascend_dense", options=options, dynamic=dynamic)
    torch.testing.assert_close(compiled(x), function(x))
    (error,) = sum(ascend_passes.reports(), Report()).errors
    assert error.startswith(f"{stage.__name__} failed and was left out: StructureError")
    assert sentence in error
