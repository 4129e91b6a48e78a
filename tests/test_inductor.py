"""`executor="inductor"`: Inductor gets the rewritten graph itself, with references inlined."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, fx
from torch._inductor.utils import run_and_get_code
from transformers import StaticCache

import ascend_passes
from ascend_passes.executors.execute import choice_of_auto, chosen
from ascend_passes.executors.inductor import SizedGraph, symbolic_places
from ascend_passes.ir.trace import symbolic_inputs
from ascend_passes.models.build import small_model
from ascend_passes.models.quantize import quantize_model
from ascend_passes.models.reference import reference_logits
from ascend_passes.options.value import Options

LAYERS = 1
TINY = {"num_hidden_layers": LAYERS, "vocab_size": 128}
OPTIONS = {"executor": "inductor", "strict": True}


@pytest.fixture
def model():
    torch._dynamo.reset()
    return small_model("qwen3", torch.float32, seed=0, **TINY)


def relative(found, exact):
    return float((found.double() - exact).norm() / exact.norm())


def test_inductor_fuses_the_references_and_keeps_every_matmul(model):
    ids = torch.randint(0, 128, (1, 6))
    compiled = torch.compile(model, backend="ascend_dense", options=OPTIONS, dynamic=False)
    with torch.no_grad():
        logits, codes = run_and_get_code(lambda: compiled(ids).logits)
    report = ascend_passes.reports()[-1]
    assert report.fired["add_rms_norm"] == 2 * LAYERS
    assert not report.errors
    assert "torch.ops.npu" in report.graph_after
    text = "\n".join(codes)
    assert "torch.ops.npu" not in text
    assert len(re.findall(r"extern_kernels\.mm\(|extern_kernels\.addmm\(", text)) == 7 * LAYERS + 1
    exact = reference_logits(model, ids, ids[:, :0])
    assert relative(logits, exact) < 2e-6


def test_a_quantized_model_agrees_with_float64_as_well_as_eager_does():
    torch._dynamo.reset()
    model = small_model("qwen3", torch.bfloat16, seed=1, **TINY)
    quantize_model(model, "dynamic", torch.randint(0, 128, (2, 16)))
    ids = torch.randint(0, 128, (1, 9))
    exact = reference_logits(model, ids, ids[:, :0])
    with torch.no_grad():
        eager = relative(model(ids).logits, exact)
        compiled = torch.compile(model, backend="ascend_dense", options=OPTIONS, dynamic=False)
        assert relative(compiled(ids).logits, exact) <= 1.25 * eager
    assert ascend_passes.reports()[-1].fired["quant_matmul_dynamic"] == 7 * LAYERS


def test_caches_are_written_in_place_and_sizes_may_change(model):
    def step(ids, cache):
        return model(ids, past_key_values=cache, use_cache=True).logits

    caches = [StaticCache(config=model.config, max_cache_len=32) for _ in range(2)]
    compiled = torch.compile(step, backend="ascend_dense", options=OPTIONS, dynamic=True)
    with torch.no_grad():
        for count in (5, 3, 1, 1):
            ids = torch.randint(0, 128, (1, count))
            expected, found = step(ids, caches[0]), compiled(ids, caches[1])
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            for ours, theirs in zip(caches[1].layers, caches[0].layers, strict=True):
                torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(ours.values, theirs.values, rtol=1e-4, atol=1e-5)


def doubled_where_short(x: Tensor) -> Tensor:
    """What a reference may do: ask for a size."""
    return x * 2 if x.shape[0] < 8 else x * 3


def graph_of(function, *values):
    graph = fx.Graph()
    inputs = []
    for index, value in enumerate(values):
        inputs.append(graph.placeholder(f"x{index}"))
        inputs[-1].meta["val"] = value
    graph.output((graph.call_function(function, tuple(inputs)),))
    return fx.GraphModule(torch.nn.Module(), graph)


def test_what_is_assumed_of_sizes_is_asked_at_each_call():
    """The graph is compiled for short rows; long ones must not run what was compiled for those."""
    values = symbolic_inputs([(5, 7)], [torch.float32], "cpu", dynamic=(5,))
    run = SizedGraph(graph_of(doubled_where_short, *values), values, "cpu")
    assert run.places == ((0, 0),)
    for rows, factor, compilations in ((4, 2, 1), (6, 2, 1), (9, 3, 2), (30, 3, 2), (3, 2, 2)):
        x = torch.randn(rows, 7)
        assert torch.equal(run(x)[0], x * factor)
        assert len(run.compiled) == compilations


def test_equal_sizes_are_an_assumption_too():
    values = symbolic_inputs([(5, 7), (5, 7)], [torch.float32] * 2, "cpu", dynamic=(5, 7))
    run = SizedGraph(graph_of(lambda a, b: torch.cat([a, b]), *values), values, "cpu")
    assert len(symbolic_places(values)) == 4
    for first, second in ((5, 5), (3, 6), (4, 4)):
        a, b = torch.randn(first, 7), torch.randn(second, 7)
        assert torch.equal(run(a, b)[0], torch.cat([a, b]))
    assert len(run.compiled) == 2


def test_roundings_stay_where_eager_has_them():
    """Inductor drops a rounding between two operators unless it is told otherwise."""
    x, y = (torch.randn(64, 64).bfloat16() for _ in range(2))
    run = SizedGraph(graph_of(lambda a, b: (a * b + a) * b, x, y), (x, y), "cpu")
    assert torch.equal(run(x, y)[0], (x * y + x) * y)


@pytest.mark.parametrize(
    ("device", "triton", "name"),
    [("cpu", True, "eager"), ("cuda", True, "inductor"), ("cuda", False, "eager")],
)
def test_auto_takes_inductor_where_kernels_can_be_made(monkeypatch, device, triton, name):
    monkeypatch.setattr("ascend_passes.executors.execute.has_triton", lambda: triton)
    assert chosen(Options(), device) == name
    (note,) = choice_of_auto(Options(), device)
    assert note.startswith(f"executor auto is {name} on {device}: ")
    assert choice_of_auto(Options(executor="eager"), device) == ()


def test_the_report_says_what_auto_came_to():
    torch._dynamo.reset()
    ascend_passes.reset()
    torch.compile(lambda x: x + 1, backend="ascend_dense")(torch.ones(3))
    assert "executor auto is eager on cpu" in str(ascend_passes.reports()[-1])
