"""Products of the same rows become one call, where nobody else gains or loses by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear, silu

import ascend_passes
from ascend_passes import npu
from ascend_passes.compile import pass_names, pipeline
from ascend_passes.compile.stages import STAGES
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import Context
from ascend_passes.models.build import small_model
from ascend_passes.options.plans import Plan
from ascend_passes.options.value import Options
from ascend_passes.passes.merge_products import merge_products
from ascend_passes.passes.prefetch import prefetch
from ascend_passes.verify.exact import run_graph
from tests.graphs import traced

MERGED = torch.ops.npu.npu_grouped_matmul.default
ON = Options(passes="+merge_products")
NPU = Context(ON, device="npu")
ROWS, LONG, DEPTH = 5, 1 << 21, 48
WIDTHS = (64, 16, 16)


def inputs(dtype=torch.bfloat16, turned=True, rows=ROWS):
    source = torch.Generator().manual_seed(7)
    x, *weights = (
        torch.randn(size, generator=source).to(dtype)
        for size in ((rows, DEPTH), *((width, DEPTH) for width in WIDTHS))
    )
    return [x, *(weight if turned else weight.t().contiguous() for weight in weights)]


def linears(x, *weights):
    """q, k and v as Hugging Face has them."""
    return tuple(linear(x, weight) for weight in weights)


def matrices(x, *weights):
    """Weights that lie as `[K, N]`."""
    return tuple(x @ weight for weight in weights)


def used_early(x, q, k, v):
    """The first product is read before the others are there."""
    heads = linear(x, q).relu()
    return heads, linear(x, k), linear(x, v)


def merged(function, given, context=NPU, dynamic=False):
    """The graph behind the pass, what the pass said, and the graph as it was."""
    others = [given[0][: ROWS - 1], *given[1:]]  # the weights keep their sizes
    gm, before = (traced(function, given, dynamic, others=others) for _ in range(2))
    report = merge_products(gm.graph, context)
    gm.graph.lint()
    gm.recompile()
    return gm, report, before


def calls(gm):
    return gm.graph.find_nodes(op="call_function", target=MERGED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("function", "turned"), [(linears, True), (matrices, False), (used_early, True)]
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_one_call_gives_what_each_product_gave(function, turned, dtype, dynamic):
    given = inputs(dtype, turned)
    gm, report, before = merged(function, given, dynamic=dynamic)
    assert report.fired == {"merge_products": 1} and not report.misses
    (call,) = calls(gm)
    assert call.args[0] == [call.args[0][0]] * 3 and len(call.args[1]) == 3
    assert not gm.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default)
    for new, old in zip(run_graph(gm, given), run_graph(before, given), strict=True):
        assert torch.equal(new, old) and new.stride() == old.stride()


def biased(x, q, k, v):
    return linear(x, k, v[:, 0]), linear(x, v, k[:, 0])


def one_alone(x, q, k, v):
    return linear(x, k), linear(x + 1, v)


def computed(x, q, k, v):
    return linear(x, k + 1), linear(x, v + 1)


def lying_otherwise(x, q, k, v):
    return linear(x, k), x @ v.view(DEPTH, -1)


@pytest.mark.parametrize(
    ("function", "given", "why"),
    [
        (biased, inputs(), "they have biases"),
        (linears, inputs(torch.float32), "x is float32"),
        (
            linears,
            [torch.empty(LONG, DEPTH).bfloat16(), *inputs()[1:]],
            "below 5%: each is long itself",
        ),
    ],
    ids=["bias", "float32", "long"],
)
def test_what_stays_has_a_reason(function, given, why):
    gm, report, _ = merged(function, given)
    assert not report.fired and not calls(gm)
    assert [why in miss.reason for miss in report.misses] == [True], report.misses


def test_a_weight_that_is_written_between_keeps_them_apart():
    gm = traced(linears, inputs())
    last = max(gm.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default))
    weight = last.args[1].args[0]
    with Editor(gm.graph).at(last) as edit:
        edit.known(weight.meta["val"], torch.ops.aten.neg_.default, weight)
    report = merge_products(gm.graph, NPU)
    assert not report.fired and "something is written" in report.misses[0].reason


@pytest.mark.parametrize("function", [one_alone, computed, lying_otherwise])
def test_what_is_no_sibling_is_not_told(function):
    gm, report, _ = merged(function, inputs())
    assert not report.fired and not report.misses and not calls(gm)


def int8_inputs(of_scale):
    """Rows, and weights, scales and int32 biases of k and v."""
    source = torch.Generator().manual_seed(1)
    x, *_ = inputs()
    weights = [torch.randint(-9, 9, (16, DEPTH), generator=source).to(torch.int8) for _ in "kv"]
    scales = [(torch.rand(16, generator=source) / 100).to(of_scale) for _ in "kv"]
    biases = [torch.randint(-99, 99, (16,), generator=source).int() for _ in "kv"]
    return [x, *weights, *scales, *biases]


def stored(*biased):
    """k and v with stored scales, those with an int32 bias that are named."""

    def products(x, k, v, k_scale, v_scale, k_bias, v_bias):
        rows = npu.npu_quantize(x, torch.full((1,), 0.05), None, torch.qint8, -1, False)
        k_bias = k_bias if "k" in biased else None
        v_bias = v_bias if "v" in biased else None
        k_heads = npu.npu_quant_matmul(rows, k.t(), k_scale, bias=k_bias, output_dtype=15)
        return k_heads, npu.npu_quant_matmul(rows, v.t(), v_scale, bias=v_bias, output_dtype=15)

    return products


def dynamic_rows(x, k, v, k_scale, v_scale, k_bias, v_bias):
    rows, per_token = npu.npu_dynamic_quant(x)
    more = {"pertoken_scale": per_token, "output_dtype": 15}
    k_heads = npu.npu_quant_matmul(rows, k.t(), k_scale, **more)
    return k_heads, npu.npu_quant_matmul(rows, v.t(), v_scale, **more)


@pytest.mark.parametrize("function", [stored(), stored("k", "v")], ids=["plain", "biased"])
def test_w8a8_with_stored_scales_becomes_one_call(function):
    given = int8_inputs(torch.bfloat16)
    gm, report, before = merged(function, given)
    assert report.fired == {"merge_products": 1} and len(calls(gm)) == 1, report.misses
    for new, old in zip(run_graph(gm, given), run_graph(before, given), strict=True):
        assert torch.equal(new, old) and new.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("function", "of_scale", "why"),
    [
        (dynamic_rows, torch.float32, "scales of rows for single tensors only"),
        (stored(), torch.float32, "scale is float32 but must be bfloat16"),
    ],
)
def test_w8a8_stays_with_the_reason(function, of_scale, why):
    gm, report, _ = merged(function, int8_inputs(of_scale))
    (miss,) = report.misses
    assert why in miss.reason and not calls(gm)


def test_a_product_with_a_bias_and_one_without_are_no_siblings():
    gm, report, _ = merged(stored("k"), int8_inputs(torch.bfloat16))
    assert not report.fired and not report.misses and not calls(gm)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_acts_on_an_npu_alone(device):
    gm, report, _ = merged(linears, inputs(), Context(ON, device=device))
    assert not report.fired and not calls(gm)
    assert f"on {device} it saves no launch" in report.notes[0]


def test_it_is_off_unless_asked_for():
    gm, report, _ = merged(linears, inputs(), Context(device="npu"))
    assert report == ascend_passes.Report() and not calls(gm)
    assert "merge_products" in pass_names.switchable()


def test_the_estimate_is_at_the_plan_s_least_tokens():
    for low, fired in ((1, {"merge_products": 1}), (LONG, {})):
        context = Context(ON, Plan("one", low, 2 * LONG), device="npu")
        assert merged(linears, inputs(), context, dynamic=True)[1].fired == fired


def mlp(x, gate, up, down):
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def test_prefetch_has_found_the_mlp_before():
    """The down weight is loaded behind what the merged call gives."""

    def layers(x, gate, up, down, first):
        return mlp(linear(x, first), gate, up, down)

    source = torch.Generator().manual_seed(2)
    shapes = ((ROWS, DEPTH), (64, DEPTH), (64, DEPTH), (DEPTH, 64), (DEPTH, DEPTH))
    given = [torch.randn(shape, generator=source).bfloat16() for shape in shapes]
    gm = traced(layers, given)
    context = Context(Options(passes="+merge_products", prefetch_mlp=True), device="npu")
    loaded = prefetch(gm.graph, context)
    report = merge_products(gm.graph, context)
    assert loaded.fired == {"prefetch": 3} and report.fired == {"merge_products": 1}
    gm.graph.lint()
    *_, last = gm.graph.find_nodes(
        op="call_function", target=torch.ops.npu.npu_prefetch.default, sort=True
    )
    assert last.args[1].args[0] in calls(gm)


def test_qwen3_has_two_merged_calls_a_layer(monkeypatch):
    """The pass alone is told that the device is an NPU; references run what it makes here."""
    pytest.importorskip("transformers")

    def on_npu(graph, context):
        return merge_products(graph, replace(context, device="npu"))

    told = (replace(one, run=on_npu) if one.run is merge_products else one for one in STAGES)
    monkeypatch.setattr(pipeline, "STAGES", tuple(told))
    model, ids = small_model("qwen3", torch.bfloat16), torch.arange(7)[None]
    results = []
    for passes in ("", "+merge_products"):
        torch._dynamo.reset()
        ascend_passes.reset()
        options = {"passes": passes, "prefetch_mlp": True, "strict": True}
        compiled = torch.compile(model, backend="ascend_dense", options=options)
        with torch.no_grad():
            results.append(compiled(ids).logits)
        (report,) = ascend_passes.reports()
    layers = model.config.num_hidden_layers
    assert report.fired["merge_products"] == 2 * layers
    assert report.fired["prefetch"] == 3 * layers
    assert torch.equal(*results)
