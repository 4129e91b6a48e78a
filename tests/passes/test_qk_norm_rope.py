"""Norm and rotation of packed query and key heads become one call, where they are provably that."""

from dataclasses import replace

import pytest
import torch

import ascend_passes
from ascend_passes import npu
from ascend_passes.engine.normalize import normalize
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options
from ascend_passes.passes.qk_norm_rope import fuse_packed_heads
from tests.graphs import raw, traced

QUERIES, KEYS, SIZE = 4, 2, 64
WIDTHS = [heads * SIZE for heads in (QUERIES, KEYS, KEYS)]
TOKENS = 6
ON = Context(Options(passes="+qk_norm_rope"))


def inputs(rows=TOKENS, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(5)
    angle = 6 * torch.rand(rows, SIZE, generator=generator)
    gains = 1 + 0.2 * torch.randn(2, SIZE, generator=generator)
    packed = torch.randn(TOKENS, sum(WIDTHS), generator=generator)
    return [t.to(dtype) for t in (packed, *gains, angle.cos(), angle.sin())]


def norm(x, gain):
    return npu.npu_rms_norm(x, gain, 1e-6)[0]


def tokens_first(packed, query_gain, key_gain, cos, sin):
    """As vLLM has it: heads of tokens, and rows of all heads between norm and rotation."""
    parts = packed.split(WIDTHS, -1)
    cos, sin = (table.view(1, -1, 1, SIZE) for table in (cos, sin))
    turned = []
    for part, gain in zip(parts, (query_gain, key_gain), strict=False):
        rows = norm(part.unflatten(-1, (-1, SIZE)), gain).view(part.shape)
        heads = rows.view(1, packed.shape[0], -1, SIZE)
        turned.append(npu.npu_rotary_mul(heads, cos, sin, "half").view(part.shape))
    return *turned, parts[2]


def heads_first(packed, query_gain, key_gain, cos, sin):
    """As Hugging Face has it behind merged projections: heads in front of tokens."""
    parts = packed.unsqueeze(0).split(WIDTHS, -1)
    cos, sin = (table.view(1, -1, 1, SIZE) for table in (cos, sin))
    turned = []
    for part, gain in zip(parts, (query_gain, key_gain), strict=False):
        heads = norm(part.unflatten(-1, (-1, SIZE)), gain).transpose(1, 2)
        turned.append(npu.npu_rotary_mul(heads.transpose(1, 2), cos, sin).transpose(1, 2))
    return *turned, parts[2]


def rewritten(function, given, dynamic=False, context=ON):
    """The graph after the pass alone, and what the pass said."""
    gm = traced(function, given, dynamic=dynamic)
    report = fuse_packed_heads(gm.graph, context)
    gm.graph.lint()
    gm.recompile()
    return gm, report


def targets(gm):
    return [str(node.target) for node in gm.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("function", [tokens_first, heads_first])
@pytest.mark.parametrize("rows", [TOKENS, 1])
@pytest.mark.parametrize("dynamic", [False, True])
def test_one_call_gives_the_same_bits(function, rows, dynamic):
    given = inputs(rows)
    gm, report = rewritten(function, given, dynamic and rows == TOKENS)
    assert report.fired == {"qk_norm_rope": 1} and report.misses == ()
    found, wanted = gm(*given), function(*given)
    assert all(map(torch.equal, found, wanted))
    assert [one.stride() for one in found] == [one.stride() for one in wanted]
    names = targets(gm)
    assert not [name for name in names if "rms_norm" in name or "rotary" in name]
    assert names.count("ascend_passes.qk_norm_rope.default") == 1


def test_the_dynamic_graph_serves_other_tokens():
    gm, _ = rewritten(tokens_first, inputs(), dynamic=True)
    packed, *gains, cos, sin = inputs()
    other = [torch.cat([packed, packed]), *gains, torch.cat([cos, cos]), torch.cat([sin, sin])]
    assert all(map(torch.equal, gm(*other), tokens_first(*other)))


def test_it_is_on_where_it_is_asked_for():
    given = inputs()
    found = ascend_passes.explain(tokens_first, *given, options={"passes": "+qk_norm_rope"})
    assert found.fired["qk_norm_rope"] == 1
    assert "qk_norm_rope" not in ascend_passes.explain(tokens_first, *given).fired


@pytest.mark.parametrize(
    ("device", "options", "dynamic", "fires"),
    [
        ("cuda", Options(), False, True),
        ("cuda", Options(executor="inductor"), False, True),
        ("cuda", Options(), True, False),
        ("cuda", Options(executor="eager"), False, False),
        ("cuda", Options(passes="-qk_norm_rope"), False, False),
        ("npu", Options(), False, False),
        ("cpu", Options(executor="inductor"), False, False),
    ],
)
def test_it_is_on_where_inductor_launches_it(monkeypatch, device, options, dynamic, fires):
    from ascend_passes.passes import qk_norm_rope as file

    monkeypatch.setattr(file, "has_triton", lambda: True)
    _, report = rewritten(tokens_first, inputs(), dynamic, Context(options, device=device))
    assert report.fired == ({"qk_norm_rope": 1} if fires else {}) and report.misses == ()
    monkeypatch.setattr(file, "has_triton", lambda: False)
    _, report = rewritten(tokens_first, inputs(), dynamic, Context(options, device=device))
    assert report.fired == {}


def test_cuda_gets_it_and_an_npu_where_its_kernel_can_be_compiled(monkeypatch):
    from ascend_passes.passes import qk_norm_rope as file

    _, report = rewritten(tokens_first, inputs(), context=replace(ON, device="cuda"))
    assert report.fired == {"qk_norm_rope": 1}
    _, report = rewritten(tokens_first, inputs(), context=replace(ON, device="npu"))
    assert report.fired == {}
    assert [miss.reason for miss in report.misses] == [
        "its kernel needs triton-ascend, which is not installed"
    ]
    monkeypatch.setattr(file, "has_triton_ascend", lambda: True)
    _, report = rewritten(tokens_first, inputs(), context=replace(ON, device="npu"))
    assert report.fired == {"qk_norm_rope": 1}
    context = Context(Options(executor="torchair", passes="+qk_norm_rope"), device="npu")
    _, report = rewritten(tokens_first, inputs(), context=context)
    assert [miss.reason for miss in report.misses] == ["torchair has no converter for it"]


def of_sequences(packed, query_gain, key_gain, cos, sin):
    """Each of two sequences has a row of cosines for all its tokens."""
    parts = packed.split(WIDTHS, -1)
    cos, sin = (table[:2].reshape(2, 1, 1, SIZE) for table in (cos, sin))
    heads = (
        norm(part.unflatten(-1, (-1, SIZE)), gain).view(2, TOKENS // 2, -1, SIZE)
        for part, gain in zip(parts, (query_gain, key_gain), strict=False)
    )
    return tuple(npu.npu_rotary_mul(part, cos, sin) for part in heads)


def of_heads(packed, query_gain, key_gain, cos, sin):
    """Tables that differ from head to head."""
    parts = packed.split(WIDTHS[1], -1)[:2]
    cos, sin = (table[:2].reshape(1, 1, 2, SIZE) for table in (cos, sin))
    heads = (
        norm(part.unflatten(-1, (-1, SIZE)), gain).unsqueeze(0)
        for part, gain in zip(parts, (query_gain, key_gain), strict=False)
    )
    return tuple(npu.npu_rotary_mul(part, cos, sin) for part in heads)


def of_turned_tables(packed, query_gain, key_gain, cos, sin):
    """Tables whose rows are columns."""
    turned = (table.t().contiguous().t() for table in (cos, sin))
    return tokens_first(packed, query_gain, key_gain, *turned)


def of_turned_rows(packed, query_gain, key_gain, cos, sin):
    """A packed projection whose rows lie side by side."""
    return tokens_first(packed.t().contiguous().t(), query_gain, key_gain, cos, sin)


def of_a_late_gain(packed, query_gain, key_gain, cos, sin):
    """The keys' gain depends on the queries."""
    parts = packed.split(WIDTHS, -1)
    cos, sin = (table.view(1, -1, 1, SIZE) for table in (cos, sin))

    def turned(part, gain):
        heads = norm(part.unflatten(-1, (-1, SIZE)), gain).unsqueeze(0)
        return npu.npu_rotary_mul(heads, cos, sin)

    query = turned(parts[0], query_gain)
    return query, turned(parts[1], key_gain * query.flatten()[:SIZE])


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (of_sequences, "the tokens of a sequence share a row of cosines"),
        (of_heads, "each head has cosines of its own"),
        (of_turned_tables, "the kernel reads contiguous tensors, and one that it needs is not"),
        (of_turned_rows, "the kernel reads contiguous tensors, and one that it needs is not"),
        (of_a_late_gain, "a gain is made behind the first rotation"),
    ],
)
def test_what_is_not_the_same_is_refused(function, reason):
    given = inputs()
    gm, report = rewritten(function, given)
    assert report.fired == {} and [miss.reason for miss in report.misses] == [reason]
    assert all(map(torch.equal, gm(*given), function(*given)))


def test_rows_that_are_written_in_between_are_refused():
    def function(packed, query_gain, key_gain, cos, sin):
        packed = packed * 2
        cos, sin = (table.view(1, -1, 1, SIZE) for table in (cos, sin))
        query = norm(packed[:, : WIDTHS[0]].unflatten(-1, (-1, SIZE)), query_gain)
        query = npu.npu_rotary_mul(query.unsqueeze(0), cos, sin)
        packed.mul_(3)
        key = norm(packed[:, WIDTHS[0] : sum(WIDTHS[:2])].unflatten(-1, (-1, SIZE)), key_gain)
        return query, npu.npu_rotary_mul(key.unsqueeze(0), cos, sin)

    given = inputs()
    gm = raw(function, given)
    normalize(gm.graph)
    report = fuse_packed_heads(gm.graph, ON)
    gm.recompile()
    assert "qk_norm_rope" not in report.fired
    assert all(map(torch.equal, gm(*given), function(*given)))


def of_a_reader_in_between(packed, query_gain, key_gain, cos, sin):
    """The normalized queries are asked for as well."""
    cos, sin = (table.view(1, -1, 1, SIZE) for table in (cos, sin))
    query = norm(packed[:, : WIDTHS[0]].unflatten(-1, (-1, SIZE)), query_gain)
    key = norm(packed[:, WIDTHS[0] : sum(WIDTHS[:2])].unflatten(-1, (-1, SIZE)), key_gain)
    turned = (npu.npu_rotary_mul(part.unsqueeze(0), cos, sin) for part in (query, key))
    return *turned, query


def of_neighbours(packed, query_gain, key_gain, cos, sin):
    """Columns that pair with their neighbours."""
    cos, sin = (table.view(1, -1, 1, SIZE) for table in (cos, sin))
    query = norm(packed[:, : WIDTHS[0]].unflatten(-1, (-1, SIZE)), query_gain)
    key = norm(packed[:, WIDTHS[0] : sum(WIDTHS[:2])].unflatten(-1, (-1, SIZE)), key_gain)
    parts = (query.unsqueeze(0), key.unsqueeze(0))
    return tuple(npu.npu_rotary_mul(part, cos, sin, "interleave") for part in parts)


@pytest.mark.parametrize("function", [of_a_reader_in_between, of_neighbours])
def test_what_is_something_else_is_let_be(function):
    given = inputs()
    gm, report = rewritten(function, given)
    assert report.fired == {} and report.misses == ()
    assert all(map(torch.equal, gm(*given), function(*given)))
