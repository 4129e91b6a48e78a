"""The models that `tests/bench/peers.py` times, tiny and on a CPU: their steps, and what fuses."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

import ascend_passes
from tests.bench.peers import OURS, is_ahead, peers_of
from tests.bench.peers_hugging_face import HuggingFaceStack
from tests.bench.peers_plot import figure_of
from tests.bench.peers_stack import PlainStack
from tests.bench.qwen3_stack import Shape

SHAPE = Shape(hidden=256, intermediate=512, heads=4, kv_heads=2, head_size=64)
LAYERS, CACHED = 2, 48
FUSED = {
    "quant_matmul_dynamic": 7 * LAYERS,
    "quantize_dynamic": 4 * LAYERS,
    "add_rms_norm": 2 * LAYERS,
    "add_rms_norm_dynamic_quant": 2 * LAYERS - 1,
    "swiglu_quant_dynamic": LAYERS,
    "apply_rotary_pos_emb": LAYERS,
}
"""Of any step; the first norm adds nothing, and the last is followed by no product."""
BOUND = 0.02
"""Of a distance from eager: the int8 products are exact where eager rounds factors to bfloat16."""


@pytest.fixture(autouse=True)
def without_gradients():
    torch._dynamo.reset()
    ascend_passes.reset()
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def stack():
    return HuggingFaceStack(SHAPE, LAYERS, "cpu")


def distance(found, exact):
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def compiled(step, model):
    """The report of a step compiled as the benchmark does it, and its distance from eager."""
    forward = torch.compile(model, backend="ascend_dense", dynamic=False, fullgraph=True)
    apart = distance(step(forward), step(model))
    (report,) = ascend_passes.reports()
    assert not report.errors
    return report, apart


@pytest.mark.parametrize(
    ("tokens", "cached", "more"),
    [(3, CACHED, {"grouped_attention": LAYERS}), (24, None, {})],
    ids=["decode", "prefill"],
)
def test_hugging_faces_layers_are_fused_as_they_are(stack, tokens, cached, more):
    report, apart = compiled(stack.step(tokens, cached), stack.model)
    expected = FUSED | more
    assert {name: report.fired.get(name) for name in expected} == expected
    after = report.graph_after
    assert after.count("npu.npu_quant_matmul.") == 7 * LAYERS and "aten.mm." not in after
    assert apart <= BOUND


@pytest.mark.parametrize("cached", [CACHED, None], ids=["decode", "prefill"])
def test_a_step_gives_the_same_as_often_as_it_is_replayed(stack, cached):
    step = stack.step(3, cached)
    first = step(stack.model).clone()
    assert first.shape == ((1, 3, SHAPE.hidden) if cached is None else (3, 1, SHAPE.hidden))
    assert torch.equal(step(stack.model), first)


def test_a_decode_step_sees_its_whole_cache(stack):
    """Its mask hides nothing, and without one transformers repeats no heads."""
    unmasked = HuggingFaceStack(SHAPE, LAYERS, "cpu", float_weights=False, decode_mask=False)
    found = []
    for one in (stack, unmasked):
        torch.manual_seed(1)
        found.append(one.step(3, CACHED)(stack.model))
    assert distance(*found) <= BOUND
    report, _ = compiled(unmasked.step(3, CACHED), unmasked.model)
    assert "grouped_attention" not in report.fired and "aten.clone." not in report.graph_after


def test_the_float_program_has_the_same_numbers_and_shares_all_else(stack):
    step = stack.step(3, CACHED)
    programs = stack.programs()
    assert distance(step(programs[", float weights"]), step(programs[""])) <= BOUND
    dtypes = {name: parameter.dtype for name, parameter in stack.float_model.named_parameters()}
    assert set(dtypes.values()) == {torch.bfloat16}
    assert stack.float_model.embed_tokens.weight is stack.model.embed_tokens.weight
    assert stack.model.layers[0].mlp.up_proj.weight.dtype == torch.int8


def test_inductor_has_every_program_and_we_the_first(stack):
    assert peers_of(stack) == {
        "Inductor": (stack.model, "inductor"),
        "Inductor, float weights": (stack.float_model, "inductor"),
        "ascend_dense": (stack.model, "ascend_dense"),
    }
    alone = HuggingFaceStack(SHAPE, 1, "cpu", float_weights=False)
    assert list(peers_of(alone)) == ["Inductor", "ascend_dense"]


@pytest.mark.parametrize("cached", [CACHED, None], ids=["decode", "prefill"])
def test_the_plain_stack_takes_the_same_steps(cached):
    plain = PlainStack(SHAPE, LAYERS, "cpu")
    found = plain.step(3, cached)(plain)
    assert found.shape == (3, SHAPE.hidden) and found.isfinite().all()
    assert peers_of(plain) == {
        "Inductor": (plain, "inductor"),
        "ascend_dense": (plain, "ascend_dense"),
    }


TIMES = {"eager": 9.0, "Inductor": 3.0, "ascend_dense": 1.5, OURS: 2.0}


def test_ahead_is_less_than_all_that_are_not_ours():
    assert is_ahead(TIMES)
    assert not is_ahead({**TIMES, "Inductor": 2.0})
    assert not is_ahead({**TIMES, "eager": 1.0})


def test_bars_are_times_over_the_floor_of_all_but_eager():
    pytest.importorskip("matplotlib")
    rows = [
        {
            **{"step": "decode", "tokens": tokens, "floor": floor, "milliseconds": TIMES},
            "low": {peer: time - 0.5 for peer, time in TIMES.items()},
            "high": {peer: time + 1.0 for peer, time in TIMES.items()},
        }
        for tokens, floor in ((1, 1.0), (32, 0.5))
    ]
    (axis,) = figure_of(rows, "two steps").axes
    found = {c.get_label(): [bar.get_height() for bar in c.patches] for c in axis.containers[1::2]}
    assert found == {"Inductor": [3.0, 6.0], "ascend_dense": [1.5, 3.0], OURS: [2.0, 4.0]}
    assert [text.get_text() for text in axis.get_xticklabels()] == ["decode 1", "decode 32"]
    spread = axis.containers[1].errorbar.lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in spread] == [[2.5, 4.0], [5.0, 8.0]]
