"""How often each rule fires on real models; a change of the engine must not lower it."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

import ascend_passes
from ascend_passes import Report
from ascend_passes.models.build import small_model
from ascend_passes.models.merged import trace_merged
from ascend_passes.models.quantize import quantize_model, quantized_layers
from ascend_passes.support import minor
from tests.slow import slow

LAYERS = 2
PASSES = (
    "specialize_scalars",
    "normalize",
    "deduplicate",
    "merge_equal",
    "fold_constants",
    "eliminate_zeros",
    "row_views",
)
"""Names in a report that count nodes and values, not fusions."""
NORM = ("aten.pow", "aten.mean", "aten.rsqrt")
ROPE = ("aten.neg", "aten.cat")
SWIGLU = ("aten.silu",)
QUANT = ("aten.div", "aten.round", "aten.clamp")
ROWS = (*QUANT, "aten.abs", "aten.amax")
"""Operators that only the spellings of the fused operators have in these models."""
DECODER = {
    "rms_norm": 2 * LAYERS + 1,
    "swiglu_unpacked": LAYERS,
    "rotary_mul": 2 * LAYERS,
    "add_rms_norm": 2 * LAYERS,
    "apply_rotary_pos_emb": LAYERS,
}
"""Llama and its like: two norms in a layer and the last; the first norm of all adds nothing."""
QWEN3 = {**DECODER, "rms_norm": 4 * LAYERS + 1}
"""Queries and keys have norms of their own."""
GEMMA3 = {
    "gemma_rms_norm": 6 * LAYERS + 1,
    "rotary_mul": 2 * LAYERS,
    "add_gemma_rms_norm": 2 * LAYERS,
    "apply_rotary_pos_emb": LAYERS,
}
"""Norms in front of and behind both parts of a layer, and of transposed queries and keys; GELU in
place of SwiGLU."""
GATED = (*NORM, *ROPE, *SWIGLU)
PARTS = {"gemma3": (*NORM, *ROPE)}
"""What a family spells out, where that is not `GATED`."""
FLOAT = {"qwen2": DECODER, "qwen3": QWEN3, "llama": DECODER, "mistral": DECODER, "gemma3": GEMMA3}
QUANTIZED_ROWS = {
    "static": {"quantize_static": 4 * LAYERS, "quant_matmul_static": 7 * LAYERS},
    "dynamic": {"quantize_dynamic": 4 * LAYERS, "quant_matmul_dynamic": 7 * LAYERS},
}
"""Equal scales of q, k, v and of gate, up: a row is quantized once, 4 times in a layer."""
FUSED_ROWS = {
    "static": {"add_rms_norm_quant": 2 * LAYERS - 1},
    "dynamic": {"add_rms_norm_dynamic_quant": 2 * LAYERS - 1},
}
"""Every norm in front of a projection but the first, which adds nothing."""
GATED_ROWS = {
    "static": {"rms_norm_quant": 1, "swiglu_quant_static": LAYERS},
    "dynamic": {"swiglu_quant_dynamic": LAYERS},
}
GEMMA_ROWS = {
    "static": {"rms_norm_quant": 1, "unrounded_gain": 1},
    "dynamic": {"unrounded_gain": 1},
}
"""The first norm, by its gain; the last, whose rows stay bfloat16, so that its gain is not rounded;
and the activation: no operator takes GELU and quantizes."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def token_ids(count=7):
    return torch.randint(512, (1, count), generator=torch.Generator().manual_seed(1))


@functools.cache
def model_of(family, dtype, activations=None):
    """A small model whose norms have gains of their own, as trained ones do."""
    model = small_model(
        family, dtype, num_hidden_layers=LAYERS, hidden_size=256, intermediate_size=256
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.rand(parameter.shape, generator=generator))
    if activations is not None:
        quantize_model(model, activations, token_ids(16))
    return model


@torch.no_grad()
def compiled(model, dynamic, tokens=7) -> tuple[Report, torch.Tensor]:
    """The report of one compilation and the logits of its first call."""
    torch._dynamo.reset()
    ascend_passes.reset()
    logits = torch.compile(model, backend="ascend_dense", dynamic=dynamic)(
        token_ids(tokens), use_cache=False
    ).logits
    (report,) = ascend_passes.reports()
    assert not report.errors
    return report, logits


def counts(report):
    return {name: count for name, count in report.fired.items() if name not in PASSES}


def calls_of(code, name):
    return code.count(f"{name}.")


def cats_of(family, dynamic):
    """How often `cat` stays: two projections for one SwiGLU; where sizes are symbols and nothing
    folds, the halves of the rotary table and the positions in the mask."""
    return (0 if family in PARTS else LAYERS) + (2 if dynamic else 0)


def assert_nothing_spelled_out(report, spelled, cats):
    """Operators that only spellings have were there and are gone, but for this many `cat`."""
    before = {name: calls_of(report.graph_before, name) for name in spelled}
    after = {name: calls_of(report.graph_after, name) for name in spelled}
    assert min(before.values()) > 0, before
    assert before["aten.cat"] > cats
    assert after == dict.fromkeys(spelled, 0) | {"aten.cat": cats}


@pytest.mark.parametrize(
    ("dtype", "dynamic"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)],
    ids=["float32", "bfloat16", "bfloat16-dynamic"],
)
@pytest.mark.parametrize("family", FLOAT)
def test_float_models(family, dtype, dynamic):
    model = model_of(family, dtype)
    report, logits = compiled(model, dynamic)
    split = family == "gemma3" and dtype == torch.bfloat16
    assert counts(report) == FLOAT[family] | ({"unrounded_gain": 2 * LAYERS} if split else {})
    assert_nothing_spelled_out(report, PARTS.get(family, GATED), cats_of(family, dynamic))
    with torch.no_grad():
        eager = model(token_ids(), use_cache=False).logits
    bound = 1e-4 if dtype == torch.float32 else 0.1
    assert (logits - eager).abs().max() <= bound * eager.abs().max()


@pytest.mark.parametrize(
    ("family", "dynamic"),
    [("qwen3", False), ("qwen3", True), ("llama", False), ("gemma3", False)],
    ids=["qwen3", "qwen3-dynamic", "llama", "gemma3"],
)
@pytest.mark.parametrize("activations", ["static", "dynamic"], ids=["scales", "rows"])
def test_w8a8_with_separate_projections(family, activations, dynamic):
    report, _ = compiled(model_of(family, torch.bfloat16, activations), dynamic)
    expected = {**FLOAT[family], **QUANTIZED_ROWS[activations], **FUSED_ROWS[activations]}
    family_rows = GEMMA_ROWS if family == "gemma3" else GATED_ROWS
    assert counts(report) == {**expected, **family_rows[activations]}
    spelled = {*PARTS.get(family, GATED), *(QUANT if activations == "static" else ROWS)}
    assert_nothing_spelled_out(report, spelled, cats_of(family, dynamic))


@pytest.mark.parametrize("activations", ["static", "dynamic"], ids=["scales", "rows"])
def test_one_token_fuses_as_many_do(activations):
    """A decode step: of a single row, scales of columns are as many as the row's elements."""
    model = model_of("qwen3", torch.bfloat16, activations)
    one, many = (counts(compiled(model, False, tokens)[0]) for tokens in (1, 7))
    assert one == {**many, "grouped_attention": LAYERS}


def with_scales(different):
    """A static W8A8 model whose q, k and v projections store this many different scales."""
    model = small_model(
        "qwen3", torch.bfloat16, num_hidden_layers=LAYERS, hidden_size=256, intermediate_size=256
    )
    quantize_model(model, "static", token_ids(16))
    scales = {"k_proj": min(1, different - 1), "v_proj": different - 1}
    for name, layer in quantized_layers(model):
        layer.input_scale.data.fill_(0.02 + 0.01 * scales.get(name.rsplit(".")[-1], 0))
    return model


def test_two_scales_take_the_second_output():
    report, _ = compiled(with_scales(2), None)
    fired = counts(report)
    assert report.spellings["add_rms_norm_quant[scale2]"] == LAYERS - 1
    assert report.spellings["add_rms_norm_quant"] == LAYERS
    assert fired["add_rms_norm_quant"] == 2 * LAYERS - 1
    assert fired["quantize_static"] == 5 * LAYERS
    refused = [miss for miss in report.misses if miss.complete and miss.rule == "rms_norm_quant"]
    assert {miss.place.module for miss in refused} == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
    }


def test_three_scales_stay_and_are_reported():
    report, _ = compiled(with_scales(3), None)
    fired = counts(report)
    assert fired["add_rms_norm_quant"] == report.spellings["add_rms_norm_quant"] == LAYERS
    refused = [miss for miss in report.misses if miss.rule == "add_rms_norm_quant"]
    assert {miss.place.module for miss in refused} == {
        f"model.layers.1.self_attn.{name}_proj" for name in "qkv"
    }
    assert all("gives two quantized rows at most" in miss.reason for miss in refused)


def optimized(layers, dynamic):
    """(report, operator -> calls) of the Qwen3-32B-shaped model with merged projections."""
    gm = trace_merged(layers, 16, dynamic)
    # Each of a whole model's thousands of nodes computed once more takes minutes.
    report = ascend_passes.optimize(gm, [], {"verify_each_stage": layers < LAYERS_OF_QWEN3_32B})
    calls: dict[str, int] = {}
    for node in gm.graph.nodes:
        name = str(node.target)
        calls[name] = calls.get(name, 0) + 1
    return report, calls


LAYERS_OF_QWEN3_32B = 64


@pytest.mark.skipif(
    minor(torch.__version__) < minor("2.11"),
    reason="torch 2.10 does not compile a model of fake tensors, which Qwen3-32B's size asks for",
)
@pytest.mark.parametrize(
    ("layers", "dynamic"),
    [pytest.param(64, False, marks=slow), (16, False), (8, True), (1, False)],
    ids=["64", "16", "8-dynamic", "1"],
)
def test_merged_static_w8a8_of_qwen3_32b(layers, dynamic):
    report, calls = optimized(layers, dynamic)
    assert not report.errors
    assert calls["npu.npu_add_rms_norm_quant.default"] == 2 * layers - 1
    assert calls["npu.npu_rms_norm_quant.default"] == 1
    assert calls["npu.npu_rms_norm.default"] == 2 * layers
    assert calls["npu.npu_add_rms_norm.default"] == 1
    assert calls["npu.npu_apply_rotary_pos_emb.default"] == layers
    assert calls["npu.npu_swiglu.default"] == layers
    assert calls["npu.npu_quant_matmul.default"] == 4 * layers
    assert calls["npu.npu_quantize.default"] == 2 * layers
    assert_nothing_spelled_out(report, {*GATED, *QUANT}, cats=1)
