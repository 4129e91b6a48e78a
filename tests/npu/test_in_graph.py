"""Which calls Inductor gets as kernels of ours; what is asked here runs on a CPU as the references.

That the kernels are launched, and give the references' bits, is asked on a GPU:
`test_own_kernels_in_graphs.py`.
"""

from __future__ import annotations

import pytest
import torch
from torch import fx

from ascend_passes import npu
from ascend_passes.executors.references import is_fed_by_loops, with_references
from ascend_passes.npu.cuda import in_graph
from ascend_passes.npu.cuda.in_graph import kernel_pays

SHORT = 64
"""Columns; a kernel has none so short, so that no call launches one."""


@pytest.fixture
def graph(monkeypatch):
    """Traces a function of one tensor, in eager order, and gives its graph for CUDA."""
    monkeypatch.setattr(in_graph, "has_triton", lambda: True)

    def make(function):
        gm = fx.symbolic_trace(function)
        for node in gm.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverloadPacket):
                node.target = node.target.default
        return with_references(gm, "cuda")

    return make


def calls(gm):
    return [node for node in gm.graph.nodes if node.op == "call_function"]


def rows(*sizes):
    return torch.randn(*sizes).to(torch.bfloat16)


def same(found, wanted):
    return all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def gated(x):
    return torch.ops.npu.npu_dynamic_quant(torch.ops.npu.npu_swiglu(x))


def test_a_quantize_behind_a_gate_is_one_call(graph):
    gm, x = graph(gated), rows(5, SHORT)
    assert len(calls(gm)) == 1
    assert same(gm(x), gated(x))


def gate_read_twice(x):
    gate = torch.ops.npu.npu_swiglu(x)
    return torch.ops.npu.npu_dynamic_quant(gate), gate


def smoothed(x):
    gate = torch.ops.npu.npu_swiglu(x)
    return torch.ops.npu.npu_dynamic_quant(gate, smooth_scales=gate[0])


def by_tensor(x):
    return torch.ops.npu.npu_dynamic_quant(torch.ops.npu.npu_swiglu(x), quant_mode="pertensor")


def unpacked(x):
    gate, up = x.chunk(2, -1)
    return torch.ops.npu.npu_dynamic_quant(
        torch.ops.npu.npu_swiglu(torch.ops.aten.cat.default([gate, up], -1))
    )


@pytest.mark.parametrize("function", [gate_read_twice, smoothed, by_tensor, unpacked])
def test_a_gate_that_others_read_and_another_quantize_stay_two_calls(graph, function):
    gm, x = graph(function), rows(5, SHORT)
    targets = [node.target for node in calls(gm)]
    assert sum(getattr(target, "__name__", "") == "dynamic_quant" for target in targets) == 1
    assert sum(getattr(target, "__name__", "") == "swiglu" for target in targets) == 1
    found, wanted = (torch.utils._pytree.tree_leaves(run(x)) for run in (gm, function))
    assert same(found, wanted)


def written_between(x):
    gate = torch.ops.npu.npu_swiglu(x)
    written = torch.ops.aten.fill_.Scalar(x, 0.0)
    return torch.ops.npu.npu_dynamic_quant(gate), written


def test_what_is_written_to_the_input_of_a_gate_comes_behind_it(graph):
    gm, x = graph(written_between), rows(5, SHORT)
    wanted = gated(x)
    assert same(gm(x.clone())[0], wanted)
    assert wanted[0].ne(0).any()


def test_a_quantize_of_what_a_loop_computes_is_known(graph):
    quantize = torch.ops.npu.npu_dynamic_quant
    cases = {
        lambda x: quantize(torch.ops.aten.exp.default(x)): True,
        lambda x: quantize(torch.ops.aten.view.default(torch.ops.aten.exp.default(x), [-1])): True,
        lambda x: quantize(torch.ops.aten.cat.default([x, x], -1)): True,
        lambda x: quantize(torch.ops.npu.npu_swiglu.default(x)): True,
        lambda x: quantize(torch.ops.npu.npu_rms_norm.default(x, x)[0]): False,
        lambda x: quantize(x): False,
        lambda x: quantize(torch.ops.aten.mm.default(x, x)): False,
    }
    for function, expected in cases.items():
        gm = fx.symbolic_trace(function)
        (node,) = [n for n in gm.graph.nodes if n.target is quantize]
        assert is_fed_by_loops(node) == expected


@pytest.mark.parametrize(
    ("name", "sizes", "keywords", "expected"),
    [
        ("npu_dynamic_quant", (1, 2048), {}, True),
        ("npu_dynamic_quant", (1, 1024), {}, False),
        ("npu_rms_norm", (4, 8, 128), {}, False),
        ("npu_add_rms_norm_quant", (4, 5120), {}, True),
        ("npu_swiglu_quant", (32, 4096), {"quant_mode": 1}, True),
        ("npu_swiglu_quant", (2, 16, 4096), {"quant_mode": 1}, True),
        ("npu_swiglu_quant", (15, 4096), {"quant_mode": 1}, False),
        ("npu_swiglu_quant", (32, 4096), {"quant_mode": 0}, False),
        ("npu_swiglu_quant", (32, 4096), {}, False),
        ("npu_swiglu", (15, 4096), {}, False),
        ("npu_quant_matmul", (1, 16), {}, True),
    ],
)
def test_long_rows_and_not_too_few_of_them_are_launched(name, sizes, keywords, expected):
    assert kernel_pays(name, torch.empty(sizes), keywords) == expected


def test_what_has_no_kernel_is_its_reference_and_on_a_cpu_all_is(graph):
    swiglu = npu.OPERATORS["npu_swiglu"]
    assert in_graph.inlined(swiglu, "cuda", False) is swiglu.reference
    for name in in_graph.LONG_ROWS:
        operator = npu.OPERATORS[name]
        assert in_graph.inlined(operator, "cpu", False) is operator.reference
        assert in_graph.inlined(operator, "cuda", False) is not operator.reference
