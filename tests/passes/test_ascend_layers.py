"""Graphs as the layers of vllm-ascend 0.23 write them, its FlashComm on and off.

Schemas are those that it registers; two decoder layers follow its own forward functions operator by
operator: `AscendRMSNorm`, the W8A8 and unquantized methods, and the linear layers under FlashComm.
"""

from __future__ import annotations

import pytest
import torch

from ascend_passes.compile.stages import fuse, recognize
from ascend_passes.engine.normalize import normalize
from ascend_passes.frontends.vllm_operators import vllm_operators
from ascend_passes.ir.graph import Context, base, operator_name, value
from ascend_passes.options.plans import Plan
from ascend_passes.options.value import Options
from ascend_passes.passes.flashcomm.sequence_parallel import sequence_parallel
from ascend_passes.passes.prefetch import prefetch
from ascend_passes.passes.quantize_before_gather import GATHER, quantize_before_gather
from tests.graphs import raw
from tests.registered import registered

TOKENS, WIDTH, INNER, LAYERS, EPSILON = 6, 64, 96, 2, 1e-6
SCHEMAS = {
    "_C_ascend": (
        "npu_add_rms_norm_bias(Tensor x1, Tensor x2, Tensor gamma, Tensor? beta=None,"
        " float epsilon=1e-6) -> (Tensor y, Tensor rstd, Tensor x)",
    ),
    "vllm": (
        "quantize(Tensor in_tensor, Tensor input_scale, Tensor input_scale_reciprocal,"
        " Tensor input_offset) -> Tensor",
        "unquantized_gemm(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
        "maybe_chunk_residual(Tensor x, Tensor residual) -> Tensor",
        "maybe_all_gather_and_maybe_unpad(Tensor x, bool label, bool is_ep_comm=False) -> Tensor",
        "matmul_and_reduce(Tensor input_parallel, str layer_name) -> Tensor",
        "prefetch_preprocess(Tensor weight, Tensor? start_flag, int max_weight_size) -> ()",
    ),
}


def add_rms_norm_bias(x1, x2, gamma, beta=None, epsilon=1e-6):
    return torch.empty_like(x1), x1.new_empty(len(x1), 1).float(), torch.empty_like(x1)


def quantize(in_tensor, input_scale, input_scale_reciprocal, input_offset):
    return torch.empty_like(in_tensor, dtype=torch.int8)


def matmul_and_reduce(input_parallel, layer_name):
    return input_parallel.new_empty(len(input_parallel), WIDTH, dtype=torch.bfloat16)


KERNELS = {
    "_C_ascend": (add_rms_norm_bias,),
    "vllm": (
        quantize,
        lambda x, weight, bias=None: x.new_empty(len(x), len(weight)),
        lambda x, residual: torch.empty_like(x),
        lambda x, label, is_ep_comm=False: torch.empty_like(x),
        matmul_and_reduce,
        lambda *_: None,
    ),
}
"""Shapes alone: nothing here is run."""
FORMS = ("static", "dynamic", "unquantized")
WEIGHTS = ("qkv", "o", "gate_up", "down")
SHAPES = {
    "qkv": (WIDTH, 3 * WIDTH),
    "o": (WIDTH, WIDTH),
    "gate_up": (WIDTH, 2 * INNER),
    "down": (INNER, WIDTH),
}


@pytest.fixture(scope="module", autouse=True)
def operators():
    with registered(SCHEMAS, KERNELS):
        yield


def names(form):
    """The tensors that a graph takes, in order."""
    layers = [f"{layer}.{weight}" for layer in range(LAYERS) for weight in WEIGHTS]
    return ("x", "residual", "gain", "scale", "reciprocal", "offset", "column", *layers)


def inputs(form):
    rows, row = (TOKENS, WIDTH), torch.ones(WIDTH, dtype=torch.bfloat16)
    kind = torch.bfloat16 if form == "unquantized" else torch.int8
    step = torch.ones(1, dtype=torch.bfloat16)
    column = torch.ones(1, dtype=torch.bfloat16)
    weights = [
        torch.ones(SHAPES[weight], dtype=kind)
        if kind is torch.int8
        else torch.ones(SHAPES[weight][::-1], dtype=kind)
        for _ in range(LAYERS)
        for weight in WEIGHTS
    ]
    both = (torch.ones(rows, dtype=torch.bfloat16) for _ in range(2))
    return [*both, row, step, step.clone(), step.clone(), column, *weights]


def model(form, flashcomm, loads=()):
    """The function of two layers; `loads` names weights that vllm-ascend prefetches itself."""

    def product(x, tensors, weight):
        if form == "unquantized":
            return torch.ops.vllm.unquantized_gemm(x, weight)
        if form == "static":
            steps = (tensors[name] for name in ("scale", "reciprocal", "offset"))
            rows, scales = torch.ops.vllm.quantize(x, *steps), None
        else:
            rows, scales = torch.ops.npu.npu_dynamic_quant(x, dst_type=torch.int8)
        column = tensors["column"].expand(weight.shape[1]).contiguous()
        return torch.ops.npu.npu_quant_matmul(
            rows, weight, column, pertoken_scale=scales, output_dtype=15
        )

    def column_parallel(x, tensors, weight):
        if flashcomm:
            x = torch.ops.vllm.maybe_all_gather_and_maybe_unpad(x, True)
        return product(x, tensors, weight)

    def row_parallel(x, tensors, weight, name):
        if flashcomm:
            return torch.ops.vllm.matmul_and_reduce(x, name)
        return product(x, tensors, weight)

    def norm(x, residual, tensors):
        residual = torch.ops.vllm.maybe_chunk_residual(x, residual)
        y, _, total = torch.ops._C_ascend.npu_add_rms_norm_bias(
            x, residual, tensors["gain"], None, EPSILON
        )
        return y, total

    def forward(*given):
        tensors = dict(zip(names(form), given, strict=True))
        x, residual = tensors["x"], tensors["residual"]
        for layer in range(LAYERS):
            weights = {name: tensors[f"{layer}.{name}"] for name in WEIGHTS}
            y, residual = norm(x, residual, tensors)
            query = column_parallel(y, tensors, weights["qkv"])[:, :WIDTH]
            x = row_parallel(query.contiguous(), tensors, weights["o"], f"{layer}.o")
            y, residual = norm(x, residual, tensors)
            for name in loads:
                torch.ops.vllm.prefetch_preprocess(weights[name], y, 1)
            both = torch.ops.npu.npu_swiglu(column_parallel(y, tensors, weights["gate_up"]))
            x = row_parallel(both, tensors, weights["down"], f"{layer}.down")
        return norm(x, residual, tensors)

    return forward


def rewritten(form, flashcomm, loads=()):
    """The graph behind the stages that see vLLM's operators, and how often each acted."""
    graph = raw(model(form, flashcomm, loads), inputs(form)).graph
    context = Context(Options(prefetch_mlp=True))
    normalize(graph)
    report = vllm_operators(graph, context) + recognize(graph, context)
    report += quantize_before_gather(graph, context) + fuse(graph, context)
    return graph, report, prefetch(graph, context)


def prefetched(graph, form):
    """The weights that the graph prefetches, in order."""
    known = dict(zip(graph.find_nodes(op="placeholder"), names(form), strict=True))
    nodes = graph.find_nodes(op="call_function", target=torch.ops.npu.npu_prefetch.default)
    return [known[base(node.args[0])] for node in nodes]


@pytest.mark.parametrize("form", FORMS)
def test_each_weight_of_an_mlp_is_prefetched(form):
    graph, _, report = rewritten(form, flashcomm=False)
    expected = [f"{layer}.{name}" for layer in range(LAYERS) for name in ("gate_up", "down")]
    assert prefetched(graph, form) == expected, report
    assert not report.misses


@pytest.mark.parametrize("form", FORMS)
def test_beside_its_flashcomm_nothing_is_prefetched_and_each_mlp_says_why(form):
    graph, _, report = rewritten(form, flashcomm=True)
    assert prefetched(graph, form) == []
    reasons = [miss.reason for miss in report.misses]
    assert reasons == ["vllm::matmul_and_reduce keeps the down weight in its module"] * LAYERS


@pytest.mark.parametrize("loads", [("gate_up",), ("down",), ("gate_up", "down")])
def test_what_vllm_ascend_prefetches_is_left_to_it(loads):
    graph, _, report = rewritten("static", flashcomm=False, loads=loads)
    assert prefetched(graph, "static") == []
    reasons = {miss.reason for miss in report.misses}
    assert reasons == {"vllm::prefetch_preprocess loads its weights already"}
    left = [node for node in graph.nodes if operator_name(node) == "vllm::prefetch_preprocess"]
    assert len(left) == LAYERS * len(loads)


def test_a_product_that_nobody_declared_is_no_part_of_an_mlp():
    """The second product of the first layer is unknown: what follows is the next layer's."""
    weights = [torch.ones(WIDTH, 2 * INNER), torch.ones(WIDTH, WIDTH), torch.ones(WIDTH, WIDTH)]

    def forward(x, gate_up, o, qkv):
        inner = torch.ops.npu.npu_swiglu((x @ o) @ gate_up)
        residual = x + torch.ops.vllm.maybe_all_gather_and_maybe_unpad(inner[:, :WIDTH], True)
        return residual @ qkv

    graph = raw(forward, [torch.ones(TOKENS, WIDTH), *weights]).graph
    assert prefetch(graph, Context(Options(prefetch_mlp=True))).fired == {"prefetch": 0}


@pytest.mark.parametrize("flashcomm", [False, True])
@pytest.mark.parametrize(
    ("form", "family"),
    [("static", "add_rms_norm_quant"), ("dynamic", "add_rms_norm_dynamic_quant")],
)
def test_norm_and_quantize_become_one_kernel(form, family, flashcomm):
    _, report, _ = rewritten(form, flashcomm)
    assert report.fired[family] == 2 * LAYERS, report


@pytest.mark.parametrize("form", ["static", "dynamic"])
def test_int8_rows_and_their_scales_are_gathered(form):
    graph, report, _ = rewritten(form, flashcomm=True)
    gathers = [node for node in graph.nodes if operator_name(node) == GATHER]
    kinds = [value(node).dtype for node in gathers]
    each = [torch.int8, torch.float32] if form == "dynamic" else [torch.int8]
    assert sorted(kinds, key=str) == sorted(2 * LAYERS * each, key=str)
    assert report.fired["quantize_before_gather"] == 2 * LAYERS


def test_a_gather_whose_rows_others_read_stays_in_front():
    def forward(x):
        rows = torch.ops.vllm.maybe_all_gather_and_maybe_unpad(x, True)
        quantized, scale = torch.ops.npu.npu_dynamic_quant(rows)
        return rows + 1, quantized, scale

    graph = raw(forward, [torch.ones(TOKENS, WIDTH, dtype=torch.bfloat16)]).graph
    assert not quantize_before_gather(graph, Context(Options())).fired


@pytest.mark.parametrize("form", FORMS)
def test_our_flashcomm_stands_back_and_says_so(form):
    graph = raw(model(form, flashcomm=True), inputs(form)).graph
    plan = Plan("large", 1001, 4096, flashcomm=True)
    report = sequence_parallel(graph, Context(Options(flashcomm=True), plan=plan))
    assert not report.fired
    assert "FlashComm stands back" in report.notes[0]
