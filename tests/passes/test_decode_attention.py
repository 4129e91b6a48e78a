"""Attention of one token becomes one operator of ours, where that is asked for."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention

import ascend_passes
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options
from ascend_passes.passes.decode_attention import rewrite_decode_attention
from ascend_passes.passes.grouped_attention import grouped_attention
from tests.graphs import traced

BATCH, HEADS, TIMES, LENGTH, SIZE = 2, 3, 4, 41, 64
ON = Context(Options(passes="+decode_attention"))


def inputs(rows=1, size=SIZE, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(3)
    shapes = ((BATCH, HEADS * TIMES, rows, size), *[(BATCH, HEADS, LENGTH, size)] * 2)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def masks() -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(4)
    seen = torch.rand(BATCH, 1, 1, LENGTH, generator=generator) < 0.6
    slopes = torch.rand(1, HEADS * TIMES, 1, LENGTH, generator=generator)
    return {"none": None, "seen": seen, "one row": seen[0, 0], "heads": slopes.bfloat16()}


def repeated(x: Tensor) -> Tensor:
    batch, heads, length, size = x.shape
    x = x[:, :, None].expand(batch, heads, TIMES, length, size)
    return x.reshape(batch, heads * TIMES, length, size)


def sharing(q, k, v, *mask):
    return attention(q, k, v, *mask, enable_gqa=True)


def repeating(q, k, v, *mask):
    return attention(q, repeated(k), repeated(v), *mask)


def rewritten(function, given, dynamic=False, context=ON):
    """The graph after both passes about attention, and what ours said."""
    gm = traced(function, given, dynamic=dynamic)
    grouped_attention(gm.graph, context)
    report = rewrite_decode_attention(gm.graph, context)
    gm.graph.lint()
    gm.recompile()
    return gm, report


@pytest.mark.parametrize("function", [sharing, repeating])
@pytest.mark.parametrize("name", masks())
def test_the_result_is_torchs(function, name):
    mask = masks()[name]
    given = inputs() if mask is None else [*inputs(), mask]
    gm, report = rewritten(function, given)
    assert report.fired == {"decode_attention": 1} and report.misses == ()
    assert "ascend_passes.decode_attention" in gm.code
    assert "scaled_dot_product" not in gm.code and "clone" not in gm.code
    exact = function(*(t if t.dtype == torch.bool else t.double() for t in given))
    got, plain = gm(*given), function(*given)
    assert got.stride() == plain.stride() and got.dtype == plain.dtype
    unit = torch.finfo(torch.bfloat16).eps * float(given[2].abs().max())
    assert float((got.double() - exact).abs().max()) <= unit


def test_one_graph_serves_every_batch_and_length():
    """Sizes of the batch and of the length are symbols, heads and columns numbers."""
    reports = []

    def compiler(gm, _):
        grouped_attention(gm.graph, ON)
        reports.append(rewrite_decode_attention(gm.graph, ON))
        gm.recompile()
        return gm

    from ascend_passes.ir.trace import compile_inference

    def backend(gm, example_inputs):
        return compile_inference(gm, example_inputs, compiler)

    q, k, v = inputs()
    for tensor, dims in ((q, [0]), (k, [0, 2]), (v, [0, 2])):
        for dim in dims:
            torch._dynamo.mark_dynamic(tensor, dim)
    compiled = torch.compile(sharing, backend=backend)
    with torch.no_grad():
        for given in ((q, k, v), [torch.cat([t, t]) for t in (q, k, v)]):
            plain = sharing(*given)
            torch.testing.assert_close(compiled(*given), plain, atol=2e-2, rtol=2e-2)
    assert [report.misses for report in reports] == [()]
    assert [report.fired for report in reports] == [{"decode_attention": 1}]


def test_it_waits_to_be_asked():
    for device in ("cpu", "cuda", "npu"):
        _, report = rewritten(sharing, inputs(), context=Context(device=device))
        assert report == type(report)()
    with torch.no_grad():
        options = {"passes": "+decode_attention"}
        found = ascend_passes.explain(sharing, *inputs(), options=options)
    assert found.fired["decode_attention"] == 1 and not found.errors


def first_key(q, k, v):
    return attention(q, repeated(k), repeated(v), is_causal=True)


@pytest.mark.parametrize(
    ("function", "given", "reason"),
    [
        (first_key, inputs(), "a causal mask of one row hides all keys but one"),
        (sharing, inputs(size=48), "decode_attention: the head size is 48 but must be one of"),
        (sharing, inputs(dtype=torch.float32), "decode_attention: query is float32 but must be"),
    ],
)
def test_what_the_operator_does_not_take_is_told(function, given, reason):
    gm, report = rewritten(function, given)
    assert report.fired == {}
    assert [miss.reason.startswith(reason) for miss in report.misses] == [True]
    torch.testing.assert_close(gm(*given), function(*given), atol=2e-2, rtol=2e-2)


def test_prompts_are_let_be():
    _, report = rewritten(sharing, inputs(rows=5))
    assert report.fired == {} and report.misses == ()
