"""The models that `tests/bench/peers.py` times, tiny and on a CPU: their steps, and what fuses."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

import ascend_passes
from tests.bench.peers import peers_of
from tests.bench.peers_hugging_face import HuggingFaceStack
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
