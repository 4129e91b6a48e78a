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


WIDTH = 2048
BEHIND = {
    "norm": lambda x: torch.ops.npu.npu_rms_norm(x, torch.ones_like(x[0]))[0] + 1,
    "add + norm": lambda x: torch.ops.npu.npu_add_rms_norm(x, x + 1, torch.ones_like(x[0]))[::2],
    "add + norm + quantize": lambda x: torch.ops.npu.npu_add_rms_norm_dynamic_quant(
        x, x + 1, torch.ones_like(x[0])
    )[:4:3],
    "quantize": lambda x: torch.ops.npu.npu_dynamic_quant(x),
    "SwiGLU + quantize": lambda x: torch.ops.npu.npu_swiglu_quant(x, quant_mode=1),
    "SwiGLU, rounded, + quantize": lambda x: torch.ops.npu.npu_dynamic_quant(
        torch.ops.npu.npu_swiglu(x)
    ),
}
KERNEL = {
    "quantize": "quantize_rows",
    "SwiGLU + quantize": "swiglu_rows_dynamic",
    "SwiGLU, rounded, + quantize": "swiglu_rows_dynamic",
}


@pytest.mark.parametrize("form", BEHIND)
@pytest.mark.parametrize("rows", [16, 33])
def test_a_long_row_is_held_by_a_launch_of_inductors_with_the_same_bits(form, rows):
    generator = torch.Generator("cuda").manual_seed(rows)
    x = torch.randn(rows, WIDTH, device="cuda", generator=generator).to(BRAIN)
    options = {"rules": "-swiglu_quant_dynamic"}  # rounds once
    step = torch.compile(BEHIND[form], backend="ascend_dense", options=options, dynamic=False)
    found, codes = run_and_get_code(lambda: step(x))
    assert any(KERNEL.get(form, "norm_rows") in code for code in codes)
    assert not any("torch.ops.npu." in code for code in codes)
    whole = BEHIND[form](x)
    pairs = zip(*((t,) if isinstance(t, torch.Tensor) else t for t in (found, whole)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_short_rows_rows_of_any_number_and_rows_that_loops_make_are_left_to_inductor():
    quantize = torch.ops.npu.npu_dynamic_quant
    cases = [
        (quantize, (4, 1024), False),
        (quantize, (4, WIDTH), True),
        (lambda x: quantize(x.exp()), (4, WIDTH), False),
        (BEHIND["SwiGLU + quantize"], (4, WIDTH), False),
    ]
    for call, sizes, dynamic in cases:
        torch._dynamo.reset()
        x = torch.randn(sizes, device="cuda", dtype=BRAIN)
        step = torch.compile(lambda x, call=call: call(x), backend="ascend_dense", dynamic=dynamic)
        found, codes = run_and_get_code(lambda step=step, x=x: step(x))
        assert codes and not any("_rows" in code or "torch.ops.npu." in code for code in codes)
        off = (found[0].int() - call(x)[0].int()).abs()  # loops divide less exactly
        assert off.max() <= 1 and off.float().mean() < 1e-2


def test_what_is_not_a_number_is_not_lost_in_a_graph():
    x = torch.ones(3, WIDTH, device="cuda", dtype=BRAIN)
    x[1, 5] = float("nan")
    step = torch.compile(torch.ops.npu.npu_dynamic_quant, backend="ascend_dense", dynamic=False)
    assert step(x)[1].isnan().tolist() == [False, True, False]
