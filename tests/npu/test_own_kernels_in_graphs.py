"""The operators that are ours alone inside compiled and captured steps on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch._inductor.utils import run_and_get_code

import ascend_passes
from tests.bench.peers_stack import PlainStack
from tests.bench.qwen3_stack import BFLOAT16_CODE, Shape
from tests.npu.kernel_runs import BRAIN, INTERPRETED

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU"),
]
SHAPE = Shape(hidden=512, intermediate=1024, heads=16, kv_heads=4, head_size=64)
LAYERS, LENGTH = 2, 256
BOTH = {"passes": "+decode_attention,+qk_norm_rope"}
NEITHER = "-decode_attention,-qk_norm_rope"


@pytest.fixture(autouse=True)
def fresh():
    from tests.bench.peers import use_ascend_dense

    use_ascend_dense()
    torch._dynamo.reset()
    ascend_passes.reset()
    with torch.no_grad():
        yield


def step_inputs(batch: int):
    generator = torch.Generator("cuda").manual_seed(7)
    drawn = {"device": "cuda", "dtype": BRAIN, "generator": generator}
    sizes = (batch, SHAPE.kv_heads, LENGTH, SHAPE.head_size)
    caches = [(torch.randn(sizes, **drawn), torch.randn(sizes, **drawn)) for _ in range(LAYERS)]
    ids = torch.randint(0, 100, (batch,), device="cuda", generator=generator)
    return ids, torch.full((1,), LENGTH - 1, device="cuda"), caches


def distance(found, exact) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize("executor", ["auto", "eager"])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_decode_step_has_both_and_is_as_near_to_eager_as_without(executor, batch):
    model, given = PlainStack(SHAPE, LAYERS, "cuda"), step_inputs(batch)
    eager = model(*given)
    found = {}
    for name, passes in (("with", BOTH["passes"]), ("without", NEITHER)):
        torch._dynamo.reset()
        ascend_passes.reset()
        options = {"passes": passes, "executor": executor}
        step = torch.compile(model, backend="ascend_dense", options=options, dynamic=False)
        found[name] = distance(step(*given), eager)
        (report,) = ascend_passes.reports()
        assert not report.errors
        count = LAYERS if name == "with" else 0
        assert report.fired.get("qk_norm_rope", 0) == count
        assert report.fired.get("decode_attention", 0) == count
    assert found["with"] <= 1.5 * found["without"] + 1e-3


def test_symbolic_sizes_run_as_one_call_each():
    model = PlainStack(SHAPE, LAYERS, "cuda")
    step = torch.compile(model, backend="ascend_dense", options=BOTH, dynamic=True)
    for batch in (3, 6):
        given = step_inputs(batch)
        assert distance(step(*given), model(*given)) < 0.05
    assert any(one.fired.get("qk_norm_rope") == LAYERS for one in ascend_passes.reports())


def test_a_captured_step_reads_new_values_and_never_waits_for_the_host():
    from tests.bench.device_timing import captured

    model, (ids, positions, caches) = PlainStack(SHAPE, LAYERS, "cuda"), step_inputs(4)
    step = torch.compile(model, backend="ascend_dense", options=BOTH, dynamic=False)
    out = []
    step(ids, positions, caches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(ids, positions, caches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    replay = captured(lambda: out.append(step(ids, positions, caches)))
    ids.copy_(ids.flip(0) + 1)
    replay()
    assert torch.equal(out[-1].clone(), step(ids, positions, caches))


def test_a_prompt_has_the_norm_and_rotation():
    model = PlainStack(SHAPE, LAYERS, "cuda")
    ids = torch.arange(37, device="cuda")
    step = torch.compile(model, backend="ascend_dense", options=BOTH, dynamic=False)
    assert distance(step(ids, ids, None), model(ids, ids, None)) < 0.05
    (report,) = ascend_passes.reports()
    assert report.fired["qk_norm_rope"] == LAYERS and not report.errors


def elsewhere(matrix):
    """The same numbers where memory begins between two multiples of 16 bytes."""
    moved = torch.empty(1 + matrix.numel(), device="cuda", dtype=matrix.dtype)[1:]
    return moved.view_as(matrix).copy_(matrix)


@pytest.mark.parametrize("rows", [1, 40, 128, 512, 700, 4096])
def test_a_product_in_a_graph_is_a_launch_of_inductors_with_the_same_bits(rows):
    generator = torch.Generator("cuda").manual_seed(rows)
    drawn = {"device": "cuda", "dtype": torch.int8, "generator": generator}
    whole, weight = (torch.randint(-127, 128, (n, 1024), **drawn) for n in (rows, 512))
    scale = torch.rand(512, device="cuda", generator=generator)
    given = {"output_dtype": BFLOAT16_CODE}

    def product(whole, weight):
        return torch.ops.npu.npu_quant_matmul(whole, weight.t(), scale, **given) + 1

    step = torch.compile(product, backend="ascend_dense", dynamic=False)
    found, codes = run_and_get_code(lambda: step(whole, weight))
    assert torch.equal(found, product(whole, weight))
    assert codes and not any("torch.ops.npu." in code for code in codes)
    for moved in ((elsewhere(whole), weight), (whole, elsewhere(weight))):
        assert torch.equal(step(*moved), found)
