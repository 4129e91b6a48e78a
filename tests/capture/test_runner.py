"""Sizes, padding, addresses, results and refusals of a captured graph."""

from __future__ import annotations

import pytest
import torch

import ascend_passes
from ascend_passes import capture
from ascend_passes.capture.device import device_for
from ascend_passes.capture.runner import MOST_WASTED
from ascend_passes.executors.execute import npugraph_ex_options
from ascend_passes.ir import trace
from ascend_passes.options.plans import capture_sizes
from ascend_passes.options.value import Options

from .backend import Backend, graph_of, runner_of

EMBEDDING = torch.randn(50, 4)


def rows(ids, table):
    """Row by row: [B, 1] ids to [B, 4]."""
    return torch.nn.functional.embedding(ids, table)[:, 0] * 2


def sums(ids, table, total):
    total.add_(torch.nn.functional.embedding(ids, table).sum())
    return total * 2


def ids_of(batch, query=1):
    return torch.randint(0, 50, (batch, query))


def dynamic_runner(function=rows, *, batch=5, **settings):
    gm = graph_of(function, ids_of(batch), EMBEDDING, dynamic=True)
    return runner_of(gm, static=[index_of(gm, EMBEDDING.shape)], **settings), inputs_of(gm)


def index_of(gm, shape):
    nodes = [node for node in gm.graph.nodes if node.op == "placeholder"]
    return next(
        i for i, n in enumerate(nodes) if tuple(getattr(n.meta["val"], "shape", ())) == shape
    )


def inputs_of(gm):
    """Flat inputs from ids: numbers for size inputs, the table for the table."""
    nodes = [node for node in gm.graph.nodes if node.op == "placeholder"]

    def flat(ids):
        values = []
        for node in nodes:
            fake = node.meta["val"]
            if not isinstance(fake, torch.Tensor):
                values.append(ids.shape[0])
            else:
                values.append(ids if fake.dtype == torch.int64 else EMBEDDING)
        return values

    return flat


@pytest.fixture(autouse=True)
def static_table():
    torch._dynamo.reset()


def test_first_call_warms_up_second_captures_then_replays():
    runner, flat = dynamic_runner()
    for _ in range(4):
        ids = ids_of(8)
        (result,) = runner(*flat(ids))
        assert torch.equal(result, rows(ids, EMBEDDING))
    counters = runner.counters
    assert (counters.warm_ups, counters.captures, counters.replays) == (1, 1, 3)
    assert counters.bytes_in == 4 * 8 * 8
    assert counters.uncaptured == 0


@pytest.mark.parametrize("batch", range(2, 12))
def test_padded_up_where_the_caller_vouches(batch):
    runner, flat = dynamic_runner(fills={}, options={"capture_sizes": "4,12"})
    for _ in range(3):
        ids = ids_of(batch)
        (result,) = runner(*flat(ids))
        assert torch.equal(result, rows(ids, EMBEDDING))
    assert [
        tuple(buffer.shape)
        for entry in runner._entries.values()
        for buffer in entry.buffers.values()
    ] == [(4 if batch <= 4 else 12, 1)]


def test_sizes_share_a_graph_and_leftovers_are_filled():
    runner, flat = dynamic_runner(fills={}, options={"capture_sizes": "8"})
    for batch in (8, 7, 3, 8, 2):
        ids = ids_of(batch)
        assert torch.equal(runner(*flat(ids))[0], rows(ids, EMBEDDING))
    assert runner.counters.captures == 1
    (entry,) = runner._entries.values()
    (buffer,) = entry.buffers.values()
    assert buffer[2:].eq(0).all()


def test_not_padded_unless_the_caller_vouches(caplog):
    runner, flat = dynamic_runner()
    for _ in range(3):
        runner(*flat(ids_of(3)))
    assert runner.counters.uncaptured == 3
    (miss,) = runner.report().misses
    assert "3 tokens are not a capture size" in miss.reason
    assert [record.name for record in caplog.records].count("ascend_passes") == 1


def test_above_the_limit():
    runner, flat = dynamic_runner(options={"capture_limit": 8})
    assert torch.equal(runner(*flat(ids := ids_of(9)))[0], rows(ids, EMBEDDING))
    assert "above every capture size" in runner.report().misses[0].reason


def test_default_sizes_are_vllms():
    assert capture_sizes(Options(capture_limit=32)) == (1, 2, 4, 8, 16, 24, 32)
    sizes = capture_sizes(Options())
    assert sizes[-1] == 512 and len(sizes) == 3 + 31 + 17
    assert sizes[sizes.index(240) :][:6] == (240, 248, 256, 272, 288, 304)


@pytest.mark.parametrize(
    ("mode", "query", "captured"),
    [("FULL_DECODE_ONLY", 1, 1), ("FULL_DECODE_ONLY", 4, 0), ("FULL", 4, 1)],
)
def test_mode_decides_by_query_length(mode, query, captured):
    def step(ids, table):
        return torch.nn.functional.embedding(ids, table) * 2

    gm = graph_of(step, ids_of(2, query), EMBEDDING)
    runner = runner_of(gm, mode=mode)
    flat = inputs_of(gm)
    for _ in range(2):
        ids = ids_of(2, query)
        assert torch.equal(runner(*flat(ids))[0], step(ids, EMBEDDING))
    assert runner.counters.captures == captured
    assert not runner.report().misses


def test_none_leaves_the_function():
    gm = graph_of(rows, ids_of(2), EMBEDDING)
    assert capture.wrap(gm.forward, gm, Options(), device="cpu") == gm.forward


@pytest.mark.parametrize(
    ("executor", "mode", "own"),
    [
        ("npugraph_ex", "FULL", True),
        ("npugraph_ex", "FULL_DECODE_ONLY", False),
        ("torchair", "FULL_DECODE_ONLY", True),
        ("eager", "FULL", False),
    ],
)
def test_one_of_executor_and_runner_captures(executor, mode, own):
    """npugraph_ex captures whatever it is called with, so decode steps alone are ours."""
    gm = graph_of(rows, ids_of(2), EMBEDDING)
    options = Options(cudagraph_mode=mode, executor=executor)
    wrapped = capture.wrap(gm.forward, gm, options, device="cpu")
    assert (wrapped == gm.forward) is own
    if executor == "npugraph_ex":
        assert npugraph_ex_options(gm.graph, options)["force_eager"] is not own


def total_runner(**settings):
    total = torch.zeros(())
    gm = graph_of(sums, ids_of(2), EMBEDDING, total)
    names = ("table", "total", "ids")
    nodes = [node.meta["val"] for node in gm.graph.nodes if node.op == "placeholder"]
    kinds = ["ids" if n.dtype == torch.int64 else "table" if n.dim() else "total" for n in nodes]
    assert sorted(kinds) == sorted(names)
    runner = runner_of(gm, static=[kinds.index("table")], **settings)
    return runner, lambda **given: [given[kind] for kind in kinds]


def test_written_inputs_are_used_in_place_and_written_once_a_call():
    runner, flat = total_runner()
    total, expected = torch.zeros(()), torch.zeros(())
    for _ in range(5):
        ids = ids_of(2)
        (result,) = runner(*flat(ids=ids, table=EMBEDDING, total=total))
        assert torch.equal(result, sums(ids, EMBEDDING, expected))
        assert torch.equal(total, expected)
    assert runner.counters.bytes_in == 5 * 2 * 8  # the ids alone


def test_moved_cache_is_captured_again():
    runner, flat = total_runner()
    for _ in range(3):
        total, expected = torch.zeros(()), torch.zeros(())
        for _ in range(3):
            ids = ids_of(2)
            runner(*flat(ids=ids, table=EMBEDDING, total=total))
            sums(ids, EMBEDDING, expected)
        assert torch.equal(total, expected)
        keep = total  # noqa: F841 - the next one must have another address
    assert runner.counters.recaptures == 2


def test_a_cache_at_the_address_of_a_freed_one():
    """The allocator hands the address of a freed cache to the next one of its size."""
    runner, flat = total_runner()
    page = torch.zeros(1).numpy()
    for _ in range(4):
        page[:], expected = 0, torch.zeros(())
        total = torch.from_numpy(page)[0]
        for _ in range(2):
            ids = ids_of(2)
            runner(*flat(ids=ids, table=EMBEDDING, total=total))
            sums(ids, EMBEDDING, expected)
        assert torch.equal(total, expected)
        del total
    assert (runner.counters.captures, runner.counters.recaptures) == (1, 0)


@torch.no_grad()
@pytest.mark.parametrize("warm_up", ["lazy", "eager"])
def test_weights_that_are_assigned_to_their_own_memory(warm_up):
    """`load_state_dict` makes new parameters, here in the memory of the old ones."""
    torch._dynamo.reset()
    ascend_passes.reset()
    model = torch.nn.Embedding(50, 4)
    compiled = torch.compile(
        model,
        backend="ascend_dense",
        options={"cudagraph_mode": "FULL", "capture_warm_up": warm_up},
    )
    for _ in range(4):
        ids = ids_of(2)
        assert torch.equal(compiled(ids), model(ids))
        model.load_state_dict(model.state_dict(), assign=True)
        model.weight.mul_(1.5)
    (report,) = ascend_passes.reports()
    assert "captured graphs: 1" in " ".join(report.notes)


def test_moved_weight_is_seen():
    runner, flat = total_runner()
    other = EMBEDDING * 3
    for table in (EMBEDDING, EMBEDDING, EMBEDDING, other, other):
        ids, total = ids_of(2), torch.zeros(())
        runner(*flat(ids=ids, table=table, total=total))
        assert torch.equal(total, sums(ids, table, torch.zeros(())) / 2)


def test_caches_that_move_each_step_end_uncaptured():
    runner, flat = total_runner()
    kept = [torch.zeros(()) for _ in range(MOST_WASTED + 6)]
    for total in kept:
        ids = ids_of(2)
        runner(*flat(ids=ids, table=EMBEDDING, total=total))
        assert torch.equal(total, sums(ids, EMBEDDING, torch.zeros(())) / 2)
    assert runner.counters.uncaptured
    assert "move from step to step" in runner.report().misses[0].reason


def test_results_stay_unless_static():
    for static in (False, True):
        runner, flat = dynamic_runner(static_outputs=static)
        runner(*flat(ids_of(4)))
        runner(*flat(ids_of(4)))
        (first,) = runner(*flat(torch.zeros(4, 1, dtype=torch.int64)))
        before = first.clone()
        runner(*flat(torch.ones(4, 1, dtype=torch.int64)))
        assert torch.equal(first, before) is not static
        assert runner.counters.bytes_out == (4 if not static else 1) * 4 * 4 * 4


def masked(ids, table):
    hidden = torch.nn.functional.embedding(ids, table)
    return hidden + hidden.new_ones(hidden.shape).bernoulli(0.5)


def test_refused_operator_is_named_once_with_the_models_line(caplog):
    gm = graph_of(masked, ids_of(2), EMBEDDING)
    runner, flat = runner_of(gm), inputs_of(gm)
    for _ in range(3):
        runner(*flat(ids_of(2)))
    (miss,) = runner.report().misses
    assert "random" in miss.reason
    assert "bernoulli" in miss.node
    assert "bernoulli(0.5)" in miss.place.line
    assert runner.counters.uncaptured == 3
    assert [record.name for record in caplog.records].count("ascend_passes") == 1


def test_input_on_the_host_is_refused_with_the_reader():
    gm = graph_of(rows, ids_of(2), EMBEDDING)
    recorder = device_for.__wrapped__("cpu")
    runner, flat = runner_of(gm, device=recorder), inputs_of(gm)
    ids = recorder.keep_on_host(ids_of(2))
    assert torch.equal(runner(*flat(ids))[0], rows(ids, EMBEDDING))
    (miss,) = runner.report().misses
    assert "on the host" in miss.reason
    assert miss.node == "aten::embedding"
    assert "embedding(ids, table)" in miss.place.line


def test_failed_capture_runs_uncaptured_and_changes_nothing():
    stranger = torch.ones(())
    gm = graph_of(sums, ids_of(2), EMBEDDING, torch.zeros(()))
    nodes = [node.meta["val"] for node in gm.graph.nodes if node.op == "placeholder"]
    runner = runner_of(gm)
    plain = runner._function
    runner._function = lambda *given: [result + stranger for result in plain(*given)]
    total, expected = torch.zeros(()), torch.zeros(())
    for _ in range(4):
        ids = ids_of(2)
        given = {torch.int64: ids}
        flat = [given.get(n.dtype, EMBEDDING if n.dim() else total) for n in nodes]
        assert torch.equal(runner(*flat)[0], sums(ids, EMBEDDING, expected) + 1)
        assert torch.equal(total, expected)
    assert runner.counters.uncaptured == 3
    assert "neither an input nor made inside" in runner.report().misses[0].reason


def test_eager_warm_up_captures_at_the_first_call():
    runner, flat = total_runner(options={"capture_warm_up": "eager"})
    total, expected = torch.full((), 3.0), torch.full((), 3.0)
    for calls in range(3):
        ids = ids_of(2)
        (result,) = runner(*flat(ids=ids, table=EMBEDDING, total=total))
        assert torch.equal(result, sums(ids, EMBEDDING, expected))
        assert torch.equal(total, expected)  # written once, the capture writes nothing
        assert (runner.counters.warm_ups, runner.counters.captures) == (1, 1)
        assert runner.counters.replays == calls


def test_caches_with_the_batch_are_not_padded():
    def step(ids, table, cache):
        cache.copy_(torch.nn.functional.embedding(ids, table)[:, 0])
        return cache + 1

    backend = Backend(Options(cudagraph_mode="FULL", capture_sizes="4,8"), fills={})
    compiled = torch.compile(step, backend=backend, dynamic=True)
    for batch in (3, 4):
        cache, ids = torch.zeros(batch, 4), ids_of(batch)
        for _ in range(3):
            assert torch.equal(
                compiled(ids, EMBEDDING, cache), step(ids, EMBEDDING, torch.zeros_like(cache))
            )
    (runner,) = backend.runners
    assert runner.counters.uncaptured == 3
    assert runner.counters.captures == 1


def test_layout_reads_the_graph():
    gm = graph_of(sums, ids_of(5), EMBEDDING, torch.zeros(()), dynamic=True)
    layout = capture.Layout.of(gm)
    nodes = [node for node in gm.graph.nodes if node.op == "placeholder"]
    (total,) = layout.written
    assert nodes[total].meta["val"].dim() == 0
    assert nodes[layout.tokens].meta["val"].dtype == torch.int64
    assert layout.symbol is not None
    assert trace.static_positions() == ()


def test_one_reason_at_several_sizes_is_said_once(caplog):
    runner, flat = dynamic_runner()
    plain, stranger = runner._function, torch.ones(())
    runner._function = lambda *given: [result + stranger for result in plain(*given)]
    for batch in (2, 2, 4, 4):
        runner(*flat(ids_of(batch)))
    assert len(runner.report().misses) == 1
    assert [record.name for record in caplog.records].count("ascend_passes") == 1


def test_inputs_that_nothing_reads_are_left_alone():
    gm = graph_of(rows, ids_of(2), EMBEDDING)
    first = next(iter(gm.graph.nodes))
    with gm.graph.inserting_before(first):
        unused = gm.graph.placeholder("unused")
        unused.meta["val"] = first.meta["val"].new_empty(())
    gm.recompile()
    recorder = device_for.__wrapped__("cpu")
    runner, flat = runner_of(gm, device=recorder, static=[0]), inputs_of(gm)
    for value in range(3):
        host = recorder.keep_on_host(torch.tensor(value))
        ids = ids_of(2)
        assert torch.equal(runner(host, *flat(ids)[1:])[0], rows(ids, EMBEDDING))
    assert (runner.counters.captures, runner.counters.recaptures) == (1, 0)
    assert runner.counters.uncaptured == 0


def test_an_expanded_input_keeps_its_strides():
    seen = []

    def step(ids, positions):
        return ids * 2 + positions

    one = torch.arange(1).view(1, 1)
    gm = graph_of(step, ids_of(4), one.expand(4, 1))
    (index,) = capture.Layout.of(gm).expanded
    run = gm.forward

    def noted(*inputs):
        seen.append(inputs[index].stride())
        return run(*inputs)

    gm.forward = noted
    runner = runner_of(gm)
    for position in range(4):
        ids, positions = ids_of(4), torch.full((1, 1), position).expand(4, 1)
        given = [ids, positions] if index == 1 else [positions, ids]
        (found,) = runner(*given)
        assert torch.equal(found, step(ids, positions))
    assert runner.counters.captures == 1
    assert {stride[0] for stride in seen} == {0}
    given[index] = torch.arange(4).view(4, 1)
    with pytest.raises(ValueError, match="traced with one row for all"):
        runner(*given)


@pytest.mark.parametrize("shape", [(0, 1), (3, 0)])
def test_a_call_without_tokens_runs_uncaptured(shape):
    backend = Backend(Options(cudagraph_mode="FULL"))
    function = torch.compile(lambda ids: ids * 2 + 1, backend=backend, dynamic=False)
    for _ in range(3):
        assert function(torch.ones(shape, dtype=torch.int64)).shape == shape
    (runner,) = backend.runners
    assert (runner.counters.uncaptured, runner.counters.captures) == (3, 0)


class Shifted(torch.nn.Module):
    """A table and a value that the passes fold: it is computed from a weight alone."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(50, 4))
        self.shift = torch.nn.Parameter(torch.randn(4))

    def forward(self, ids):
        return torch.nn.functional.embedding(ids, self.table)[:, 0] + self.shift.cos() * 2


@torch.no_grad()
def test_written_weights_reach_the_next_replay():
    """Used in place or folded, a weight has its new content at the old address."""
    ascend_passes.reset()
    model = Shifted()
    compiled = torch.compile(model, backend="ascend_dense", options={"cudagraph_mode": "FULL"})
    for turn in range(6):
        ids = ids_of(2)
        assert torch.equal(compiled(ids), model(ids))
        model.shift.add_(1.5)
        if turn % 2:
            model.table.copy_(torch.randn(50, 4))
    (report,) = ascend_passes.reports()
    assert report.fired["fold_constants"] == 1
    assert "captured graphs: 1, of 6 calls 5 replayed one and 0 ran uncaptured" in report.notes
