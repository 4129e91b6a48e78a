"""Attention of one token reads shared key heads in place; a decode step copies no cache."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention
from transformers import StaticCache

import ascend_passes
from ascend_passes.ir.graph import Context
from ascend_passes.ir.trace import aot_graph, compile_inference
from ascend_passes.models.build import small_model
from ascend_passes.passes.grouped_attention import grouped_attention
from tests.allocations import allocations
from tests.graphs import traced

BATCH, HEADS, TIMES, LENGTH, SIZE = 2, 3, 4, 41, 16
LARGEST = {torch.float32: 4.0, torch.bfloat16: 1.0}
"""Bound of a result's error in units of the last place of the largest value: sums of `LENGTH`
terms in float32 whose weights, and whose result, are rounded to the dtype."""


def repeated(x: Tensor, times: int = TIMES) -> Tensor:
    """Hugging Face's `repeat_kv`."""
    batch, heads, length, size = x.shape
    x = x[:, :, None].expand(batch, heads, times, length, size)
    return x.reshape(batch, heads * times, length, size)


def inputs(dtype: torch.dtype = torch.float32, rows: int = 1, length: int = LENGTH):
    generator = torch.Generator().manual_seed(3)
    shapes = ((BATCH, HEADS * TIMES, rows, SIZE), *[(BATCH, HEADS, length, SIZE)] * 2)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def masks(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    seen = torch.rand(BATCH, 1, 1, LENGTH, generator=generator) < 0.6
    slopes = torch.rand(1, HEADS * TIMES, 1, LENGTH, generator=generator)
    return {"none": None, "seen": seen, "one row": seen[0, 0], "heads": slopes.to(dtype)}


def repeating(q, k, v, *mask):
    return attention(q, repeated(k), repeated(v), *mask)


def rewritten(function, given, dynamic=False):
    """The graph after the pass alone, and what the pass said."""
    gm = traced(function, given, dynamic=dynamic)
    report = grouped_attention(gm.graph, Context())
    gm.graph.lint()
    gm.recompile()
    return gm, report


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("name", ["none", "seen", "one row", "heads"])
def test_the_result_is_that_of_repeated_heads(dtype, name):
    q, k, v = inputs(dtype)
    mask = masks(dtype)[name]
    given = [q, k, v] if mask is None else [q, k, v, mask]
    gm, report = rewritten(repeating, given)
    assert report.fired == {"grouped_attention": 1} and report.misses == ()
    exact = repeating(*(t if t.dtype == torch.bool else t.double() for t in given))
    got, plain = gm(*given), repeating(*given)
    assert got.stride() == plain.stride() and got.dtype == dtype
    unit = torch.finfo(dtype).eps * float(v.abs().max())
    assert float((got.double() - exact).abs().max()) <= LARGEST[dtype] * unit
    assert max(allocations(lambda: gm(*given))) < k.nbytes
    assert max(allocations(lambda: repeating(*given))) >= TIMES * k.nbytes


def test_one_graph_serves_every_batch_and_length():
    reports = []

    def compiler(gm, _):
        reports.append(grouped_attention(gm.graph, Context()))
        gm.recompile()
        return gm

    torch._dynamo.reset()
    compiled = torch.compile(
        repeating, backend=lambda gm, given: compile_inference(gm, given, compiler)
    )
    for batch, length in ((2, 41), (5, 48)):
        q = torch.randn(batch, HEADS * TIMES, 1, SIZE)
        k, v = torch.randn(2, batch, HEADS, length, SIZE)
        mask = torch.rand(batch, 1, 1, length) < 0.6
        for tensor in (q, k, v, mask):
            torch._dynamo.mark_dynamic(tensor, 0)
        for tensor, dim in ((k, 2), (v, 2), (mask, 3)):
            torch._dynamo.mark_dynamic(tensor, dim)
        got, exact = compiled(q, k, v, mask), repeating(q.double(), k.double(), v.double(), mask)
        unit = torch.finfo(torch.float32).eps * float(v.abs().max())
        assert float((got - exact).abs().max()) <= LARGEST[torch.float32] * unit
    (report,) = reports
    assert report.fired == {"grouped_attention": 1}


def efficient(q, k, v, mask):
    """What a CUDA device makes of attention with a mask."""
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(q, repeated(k), repeated(v), mask.expand(-1, HEADS * TIMES, -1, -1), False)[0]


def test_the_kernel_of_a_cuda_device_gets_no_copy_either():
    gm, report = rewritten(efficient, [*inputs(), torch.randn(BATCH, 1, 1, LENGTH)])
    assert report.fired == {"grouped_attention": 1}
    attention = next(node for node in gm.graph.nodes if "efficient" in str(node.target))
    shapes = [tuple(node.meta["val"].shape) for node in attention.args[:4]]
    assert shapes == [
        (BATCH, HEADS, TIMES, SIZE),
        *[(BATCH, HEADS, LENGTH, SIZE)] * 2,
        (BATCH, HEADS, TIMES, LENGTH),
    ]
    assert attention.args[3].meta["val"].stride()[1:3] == (0, 0)
    copies = gm.graph.find_nodes(op="call_function", target=torch.ops.aten.clone.default)
    assert [node.meta["val"].numel() for node in copies] == [BATCH * HEADS * TIMES * SIZE]


def causal(q, k, v):
    return attention(q, repeated(k), repeated(v), is_causal=True)


def log_sums(q, k, v):
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(q, repeated(k), repeated(v))


def other_groups(q, k, v):
    return attention(q, repeated(k), repeated(v[:, :2], 6))


def across(q, k, v):
    return attention(q, repeated(k.transpose(2, 3).contiguous().transpose(2, 3)), repeated(v))


def written(q, k, v):
    keys = repeated(k)
    k.zero_()
    return attention(q, keys, repeated(v))


@pytest.mark.parametrize(
    ("function", "rows", "reason"),
    [
        (repeating, 2, "the query has 2 tokens"),
        (causal, 1, "a causal mask or dropout"),
        (log_sums, 1, "more than the result"),
        (other_groups, 1, "keys are repeated 4 times but values 6 times"),
        (written, 1, "written between"),
        (across, 1, "do not lie side by side"),
    ],
)
def test_refusals(function, rows, reason):
    given = inputs(rows=rows)
    gm = aot_graph(function, *given)
    if function is written:
        write_in_the_middle(gm.graph)
    report = grouped_attention(gm.graph, Context())
    assert report.fired == {}
    (miss,) = report.misses
    assert reason in miss.reason
    assert "test_grouped_attention.py" in miss.place.line


def write_in_the_middle(graph):
    """Store into the keys as soon as they are copied, where AOTAutograd stores at the end."""
    (store,) = graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default)
    first_copy = graph.find_nodes(op="call_function", target=torch.ops.aten.clone.default)[0]
    first_copy.append(store.args[1])
    store.args[1].append(store)


PROMPT, CACHE = 5, 4096
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 97,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_decode_step_allocates_less_than_one_cache(dtype):
    """Eager copies the keys and values of each layer for each query head, the step nothing."""
    model = small_model("qwen3", dtype, seed=1, **SIZES)
    cache = StaticCache(config=model.config, max_cache_len=CACHE)
    prompt = torch.randint(0, 97, (3, PROMPT))
    model(prompt, past_key_values=cache, use_cache=True)
    token = prompt[:, :1].contiguous()
    torch._dynamo.reset()
    ascend_passes.reset()
    compiled = torch.compile(model, backend="ascend_dense")

    def step(forward):
        return forward(token, past_key_values=cache, use_cache=True).logits

    for _ in range(2):  # the second call computes nothing once for all
        step(compiled)
    one = cache.layers[0].keys.nbytes
    eager, sizes = allocations(lambda: step(model)), allocations(lambda: step(compiled))
    groups = SIZES["num_attention_heads"] // SIZES["num_key_value_heads"]
    caches = 2 * SIZES["num_hidden_layers"]
    assert sum(eager) > caches * groups * one
    assert sum(sizes) < one, f"{sum(sizes)} bytes in a step, a cache has {one}"
    (report,) = ascend_passes.reports()
    assert report.fired["grouped_attention"] == SIZES["num_hidden_layers"]
    assert not [m for m in report.misses if m.rule in ("grouped_attention", "reinplace")]
