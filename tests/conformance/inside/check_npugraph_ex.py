"""The executor `npugraph_ex`: our graph is captured, updated, replayed, and left as it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ascend_passes import npu
from ascend_passes.executors.execute import execute, hidden_writes, npugraph_ex_options
from ascend_passes.ir import trace
from ascend_passes.options.value import Options
from tests.conformance.inside import attention, fusions, inputs, kernels, single, table

DEVICE = kernels.DEVICE
CAPTURING = Options(executor="npugraph_ex", cudagraph_mode="FULL")


@pytest.fixture(scope="module", autouse=True)
def recorder():
    references = {o.qualified_name: o.reference for o in npu.OPERATORS.values()}
    return kernels.install({**references, **attention.REFERENCES})


def compiled(function, *, dynamic=False, options=CAPTURING, edit=None):
    """`function` through AOTAutograd and our executor, `edit` standing for the passes."""

    def compiler(gm, inputs):
        if edit is not None:
            edit(gm.graph)
            gm.recompile()
        return execute(gm, inputs, options, "npu", trace.static_positions())

    def backend(gm, inputs):
        return trace.compile_inference(gm, inputs, compiler)

    torch._dynamo.reset()
    return torch.no_grad()(torch.compile(function, backend=backend, dynamic=dynamic))


def test_one_capture_for_each_size(recorder):
    run = compiled(lambda x: torch.ops.npu.npu_swiglu(x) * 2, dynamic=True)
    before, replays = recorder.captures, recorder.replays
    for rows in (3, 5, 3, 5, 3):
        x = torch.randn(rows, 8)
        expected = torch.nn.functional.silu(x[:, :4]) * x[:, 4:] * 2
        torch.testing.assert_close(run(x.to(DEVICE)).cpu(), expected)
    assert recorder.captures - before == 2
    assert recorder.replays - replays == 5


def test_nothing_is_captured_unless_asked(recorder):
    run = compiled(lambda x: x * 2, options=Options(executor="npugraph_ex"))
    before = recorder.captures
    assert torch.equal(run(torch.ones(4, device=DEVICE)).cpu(), torch.full((4,), 2.0))
    assert recorder.captures == before


@pytest.fixture
def copies():
    """Shapes of what is copied on the device while the test runs, single or in lists."""
    seen = []
    single, many = torch.ops.aten.copy_.default, torch.ops.aten._foreach_copy_.default

    def note_one(to, of, *args):
        seen.append(tuple(of.shape))
        return single(to, of, *args)

    def note_many(to, of, *args):
        seen.extend(tuple(t.shape) for t in of)
        return many(to, of, *args)

    kernels.implement(single, note_one)
    kernels.implement(many, note_many)
    yield seen
    kernels.implement(single, single)
    kernels.implement(many, many)


def test_parameters_are_not_copied_at_each_replay(copies):
    layer = torch.nn.Linear(8, 8).to(DEVICE)
    run = compiled(lambda x: layer(x))
    x = torch.randn(2, 8).to(DEVICE)
    run(x)
    copies.clear()
    run(x)
    assert copies == [(2, 8)]


def test_a_parameter_that_moves_is_noticed():
    layer = torch.nn.Linear(8, 8, bias=False).to(DEVICE)
    run = compiled(lambda x: layer(x))
    x = torch.randn(2, 8)
    run(x.to(DEVICE))
    weight = torch.randn(8, 8)
    layer.weight.data = weight.to(DEVICE)
    torch.testing.assert_close(run(x.to(DEVICE)).cpu(), x @ weight.T)


def cache_step(key, value, key_cache, value_cache, slots):
    torch.ops.npu.npu_scatter_pa_kv_cache(
        key, value, key_cache, value_cache, slots, cache_mode="Norm"
    )
    return key_cache.sum() + value_cache.sum()


def write_in_place(graph):
    """What the pass `reinplace` leaves: the caches written themselves, no functional copy."""
    nodes = graph.find_nodes(op="placeholder")
    for copy in graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        graph.erase_node(copy)
    wrapped = [n for n in graph.nodes if "auto_functionalized" in str(n.target)]
    functional = [n for n in graph.nodes if "kv_cache_functional" in str(n.target)]
    (call,) = [*wrapped, *functional]
    key, value, key_cache, value_cache, slots = nodes
    with graph.inserting_before(call):
        graph.call_function(
            torch.ops.npu.npu_scatter_pa_kv_cache.default,
            (key, value, key_cache, value_cache, slots),
            {"cache_mode": "Norm"},
        )
    caches = {0: key_cache, 1: value_cache, 2: value_cache}
    results = sorted(call.users, key=lambda user: user.args[1])
    for index, result in enumerate(results[-2:]):
        result.replace_all_uses_with(caches[index])
    graph.eliminate_dead_code()


def cache_inputs():
    rows = torch.randn(2, 2, 16)
    caches = [torch.zeros(4, 8, 2, 16, device=DEVICE) for _ in range(2)]
    return [rows.to(DEVICE), rows.to(DEVICE), *caches, torch.tensor([3, 9]).int().to(DEVICE)]


@pytest.mark.parametrize("edit", [None, write_in_place], ids=["functional", "in place"])
def test_cache_writes_reach_the_cache(edit):
    run = compiled(cache_step, edit=edit)
    inputs = cache_inputs()
    for _ in range(3):
        rows = torch.randn(2, 2, 16)
        inputs[0].copy_(rows)
        total = run(*inputs)
        assert torch.equal(inputs[2].cpu().view(-1, 2, 16)[[3, 9]], rows)
        torch.testing.assert_close(total.cpu(), (inputs[2].cpu().sum() + inputs[3].cpu().sum()))


def test_caches_written_in_place_are_seen_although_npugraph_ex_does_not():
    found = []

    def edit(graph):
        write_in_place(graph)
        found.extend(hidden_writes(graph))

    compiled(cache_step, edit=edit)(*cache_inputs())
    assert found == [2, 3]


def test_the_attention_takes_new_lengths_at_replay(recorder):
    def step(query, key, value, lengths):
        return torch.ops.npu.npu_fused_infer_attention_score(
            query, key, value, actual_seq_lengths_kv=lengths,
            num_heads=2, scale=0.25, input_layout="BNSD", num_key_value_heads=2,
        )[0] * 1.0  # fmt: skip

    run = compiled(step, dynamic=True)
    query, key, value = torch.randn(2, 2, 1, 16), *torch.randn(2, 2, 2, 32, 16).unbind()
    on_device = [t.to(DEVICE) for t in (query, key, value)]
    before, updates = recorder.captures, recorder.updates
    for lengths in ([7, 9], [8, 10], [3, 32]):
        expected = attention.npu_fused_infer_attention_score(
            query, key, value, actual_seq_lengths_kv=lengths, scale=0.25, input_layout="BNSD"
        )[0]
        torch.testing.assert_close(run(*on_device, lengths).cpu(), expected)
    assert recorder.captures - before == 1
    assert recorder.updates - updates >= 2


def test_our_graph_is_not_fused_again():
    """The same graph through our executor keeps the two operators that our rules left."""
    seen = []
    references = npu.OPERATORS["npu_quantize"].reference
    quantize = torch.ops.npu.npu_quantize.default

    def noted(*args, **kwargs):
        seen.append("quantize")
        return references(*args, **kwargs)

    kernels.implement(quantize, noted)
    half = torch.half
    inputs = [
        torch.randn(4, 32, dtype=half, device=DEVICE),
        torch.randn(4, 32, dtype=half, device=DEVICE),
        torch.ones(32, dtype=half, device=DEVICE),
        torch.ones(32, device=DEVICE),
        torch.zeros(32, dtype=torch.int32, device=DEVICE),
    ]
    compiled(fusions.quantized, options=Options(executor="npugraph_ex"))(*inputs)
    kernels.implement(quantize, references)
    assert seen


def test_clones_before_an_undeclared_write_are_kept():
    """Without its clone the query would be rotated for its other reader as well."""

    def rotated(query, key, cos, sin):
        kept = query.clone(), key.clone()
        done = torch.ops.npu.npu_apply_rotary_pos_emb(*kept, cos, sin)
        return *done, query * 1.0, key * 1.0

    inputs = [torch.randn(1, 3, heads, 128) for heads in (2, 1)]
    inputs += [torch.randn(1, 3, 1, 128) for _ in range(2)]
    expected = rotated(*inputs)
    run = compiled(rotated, options=Options(executor="npugraph_ex"))
    for mine, theirs in zip(run(*(t.to(DEVICE) for t in inputs)), expected, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs)


def test_no_op_removal_is_off_only_beside_undeclared_writes():
    def options(function, *values):
        return npugraph_ex_options(trace.trace(function, values).graph, CAPTURING)

    mode = trace.fake_mode_of(())
    with mode:
        plain = torch.randn(4, 8)
        query, table = torch.randn(1, 3, 1, 128), torch.randn(1, 3, 1, 128)
    assert options(lambda x: [x + 1], plain)["remove_noop_ops"]
    rotary = torch.ops.npu.npu_apply_rotary_pos_emb
    assert not options(lambda q, t: list(rotary(q, q + 1, t, t)), query, table)["remove_noop_ops"]


@pytest.mark.parametrize("name", sorted(npu.of_cann()))
def test_each_operator_is_kept_and_replayed(name):
    operator = npu.OPERATORS[name]

    @settings(max_examples=2, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def kept(data):
        call = inputs.CALLS[name](inputs.Draw(data.draw))
        assert single.problem(operator, call, operator.reference) == ""

    kept()


def test_wrong_numbers_of_a_replay_are_seen():
    operator = npu.OPERATORS["npu_swiglu"]
    wrong = lambda *args, **kwargs: operator.reference(*args, **kwargs) + 1  # noqa: E731
    found = single.problem(operator, table.call_of(operator), wrong)
    assert found == "a replay gives or writes other numbers than the reference"


def test_a_write_that_is_lost_is_seen():
    operator = npu.OPERATORS["npu_scatter_pa_kv_cache"]
    found = single.problem(operator, table.call_of(operator), lambda *args, **kwargs: None)
    assert found == "a replay gives or writes other numbers than the reference"


def test_an_operator_whose_name_only_begins_alike_does_not_count():
    code = "torch.ops.npu.npu_add_rms_norm_quant.default(x)"
    assert single.calls_in(code, npu.OPERATORS["npu_add_rms_norm_quant"]) == 1
    assert single.calls_in(code, npu.OPERATORS["npu_add_rms_norm"]) == 0
