"""Weights of an MLP are prefetched after the right matmuls, and the prefetch stays."""

import pytest
import torch
from torch import Tensor, nn

from ascend_passes.engine.normalize import normalize, remove_dead
from ascend_passes.ir.graph import Context, operator_name
from ascend_passes.ir.trace import aot_graph
from ascend_passes.options.plans import Plan
from ascend_passes.options.value import MEBIBYTE, Options
from ascend_passes.passes.prefetch import place_on_side_stream, prefetch
from tests.graphs import traced

WIDTH, INNER, TOKENS = 16, 24, 4
ON = Options(prefetch_mlp=True)
PREFETCH = torch.ops.npu.npu_prefetch.default


class Block(nn.Module):
    def __init__(self, merged: bool, quantized: bool = False) -> None:
        super().__init__()
        self.merged, self.quantized = merged, quantized
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.gate = nn.Linear(WIDTH, INNER * (1 + merged), bias=False)
        self.up = nn.Linear(WIDTH, INNER, bias=False)
        weight = torch.randint(-9, 9, (INNER, WIDTH), dtype=torch.int8)
        self.register_buffer("down_weight", weight)
        self.register_buffer("scale", torch.ones(WIDTH))
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.o_proj(x)
        normed = torch.ops.npu.npu_rms_norm(x, self.gain)[0]
        if self.merged:
            inner = torch.ops.npu.npu_swiglu(self.gate(normed))
        else:
            inner = nn.functional.silu(self.gate(normed)) * self.up(normed)
        if not self.quantized:
            return x + self.down(inner)
        rows, scale = torch.ops.npu.npu_dynamic_quant(inner.bfloat16())
        return x + torch.ops.npu.npu_quant_matmul(
            rows, self.down_weight, self.scale, pertoken_scale=scale, output_dtype=15
        )


def graph_of(*arguments: bool, dynamic: bool = False):
    gm = aot_graph(Block(*arguments), torch.randn(TOKENS, WIDTH), dynamic=dynamic)
    normalize(gm.graph)
    return gm


@pytest.mark.parametrize(
    ("merged", "quantized", "count"),
    [
        (True, False, 2),
        (False, False, 3),
        (True, True, 2),
        (False, True, 3),
    ],
)
def test_each_weight_is_prefetched_behind_the_matmul_before_it(merged, quantized, count):
    gm = graph_of(merged, quantized)
    report = prefetch(gm.graph, Context(ON))
    assert report.fired == {"prefetch": count} and report.misses == ()
    nodes = gm.graph.find_nodes(op="call_function", target=PREFETCH)
    matmuls = [
        n
        for n in gm.graph.nodes
        if n.target in (torch.ops.aten.mm.default, torch.ops.npu.npu_quant_matmul.default)
    ]
    for node in nodes:
        parameter, dependency, size, offset = node.args
        assert parameter.op == "placeholder" and offset == 0
        assert size == parameter.meta["val"].nbytes
        assert dependency is not None
    assert {n.args[1] for n in nodes[:-1]} == {matmuls[0]}
    assert nodes[-1].args[1] is matmuls[-2]
    assert all(matmuls[0] < n < matmuls[1] for n in nodes[:-1])
    assert matmuls[-2] < nodes[-1] < matmuls[-1]
    gm.graph.lint()
    gate, down = ("gate", "up")[: count - 1], "down"
    last = gate[-1]
    sizes = [f"{node.args[2] / MEBIBYTE:.3g}" for node in nodes]
    behind = [*((name, "o_proj") for name in gate), (down, last)]
    for note, size, (weight, after) in zip(report.notes, sizes, behind, strict=True):
        assert note.startswith(f"prefetch {size} MiB of ")
        assert note.endswith(f" after {after}")
        assert f" {weight} " in note or (quantized and weight == down)


def test_the_budget_is_shared_by_gate_and_up():
    gm = graph_of(False)
    bytes_of_gate = WIDTH * INNER * 4
    options = Options(
        prefetch_mlp=True, gate_up_prefetch_size=bytes_of_gate + 100, down_prefetch_size=64
    )
    prefetch(gm.graph, Context(options))
    sizes = [n.args[2] for n in gm.graph.find_nodes(op="call_function", target=PREFETCH)]
    assert sizes == [bytes_of_gate, 100, 64]


def test_it_survives_dead_code_elimination_and_runs():
    gm = graph_of(True)
    prefetch(gm.graph, Context(ON))
    gm.graph.eliminate_dead_code()
    remove_dead(gm.graph)
    assert len(gm.graph.find_nodes(op="call_function", target=PREFETCH)) == 2
    gm.recompile()
    inputs = [torch.randn(n.meta["val"].shape) for n in gm.graph.find_nodes(op="placeholder")]
    assert gm(*inputs)[0].shape == (TOKENS, WIDTH)


def test_off_by_default_and_by_the_plan():
    for context in (Context(), Context(ON, plan=Plan("small", 1, 9))):
        gm = graph_of(True)
        assert prefetch(gm.graph, context).fired == {}
        assert not gm.graph.find_nodes(op="call_function", target=PREFETCH)
    context = Context(ON, plan=Plan("small", 1, 9, prefetch=True))
    assert prefetch(gm.graph, context).fired == {"prefetch": 2}


def test_many_tokens_or_an_unknown_number_are_refused():
    for gm, options in (
        (graph_of(True), Options(prefetch_mlp=True, prefetch_tokens=TOKENS)),
        (graph_of(True, dynamic=True), ON),
    ):
        report = prefetch(gm.graph, Context(options))
        assert report.fired == {"prefetch": 0}
        assert f"below {options.prefetch_tokens} tokens" in report.misses[0].reason


def test_an_mlp_that_nothing_precedes_is_refused():
    block = Block(True)
    block.o_proj = nn.Identity()
    gm = aot_graph(block, torch.randn(TOKENS, WIDTH))
    report = prefetch(gm.graph, Context(ON))
    assert "nothing would order" in report.misses[0].reason


@pytest.mark.skipif(hasattr(torch.ops.npugraph_ex, "scope_enter"), reason="npugraph_ex is here")
def test_it_runs_on_a_side_stream_where_scopes_exist():
    gm = graph_of(True)
    prefetch(gm.graph, Context(ON))
    assert place_on_side_stream(gm.graph) == 0
    with torch.library._scoped_library("npugraph_ex", "DEF") as library:
        library.define("scope_enter(str[] keys, str[] values, bool need_execute=False) -> ()")
        library.define("scope_exit() -> ()")
        library.define("wait(Tensor[] tensors) -> ()")
        assert place_on_side_stream(gm.graph) == 2
    gm.graph.eliminate_dead_code()
    names = [operator_name(n).split("::")[-1] for n in gm.graph.nodes]
    start = names.index("scope_enter")
    assert names[start : start + 4] == ["scope_enter", "wait", "npu_prefetch", "scope_exit"]


PRODUCTS = {
    "mm": lambda x, weight: x @ weight,
    "bmm": lambda x, weight: torch.bmm(x[None], weight[None])[0],
    "int8": lambda x, weight: torch._int_mm(x.to(torch.int8), weight.to(torch.int8)).float(),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_weight_is_one_in_every_product(name):
    product = PRODUCTS[name]

    def model(x: Tensor, before: Tensor, first: Tensor, second: Tensor) -> Tensor:
        gate_up = product(product(x, before), first)
        return product(torch.ops.npu.npu_swiglu(gate_up), second)

    kind = torch.int8 if name == "int8" else torch.float32
    shapes = ((TOKENS, WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * INNER), (INNER, WIDTH))
    inputs = [
        torch.ones(shape, dtype=kind if i else torch.float32) for i, shape in enumerate(shapes)
    ]
    graph = traced(model, inputs).graph
    assert prefetch(graph, Context(ON)).fired == {"prefetch": 2}
