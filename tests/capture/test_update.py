"""Host-side sequence lengths of attention operators: not part of the key, new at each replay."""

from __future__ import annotations

import pytest
import torch

from ascend_passes.capture import CaptureError
from ascend_passes.capture.cuda import refuse_update
from ascend_passes.ir.traits import traits_of
from ascend_passes.options.value import Options

from .backend import Backend

NAME = "npu_fused_infer_attention_score"
IDS = torch.zeros(2, 1, dtype=torch.int64)
TABLE, CACHE = torch.randn(9, 4), torch.randn(2, 8, 4)


@pytest.fixture(scope="module", autouse=True)
def attention():
    """The operator's CPU stand-in: the mean of each sequence's first rows, by host-side lengths."""
    if hasattr(torch.ops.npu, NAME):
        pytest.skip("the operator has a kernel of its own here")
    library = torch.library.Library("npu", "FRAGMENT")
    library.define(f"{NAME}(Tensor x, SymInt[]? actual_seq_lengths_kv=None) -> Tensor")

    def kernel(x, actual_seq_lengths_kv=None):
        return torch.stack(
            [row[:n].mean(0) for row, n in zip(x, actual_seq_lengths_kv, strict=True)]
        )

    library.impl(NAME, kernel, "CPU")
    library.impl(
        NAME, lambda x, actual_seq_lengths_kv=None: x.new_empty(x.shape[0], x.shape[2]), "Meta"
    )
    yield
    library._destroy()


def step(ids, table, cache, one, two):
    hidden = torch.nn.functional.embedding(ids, table)[:, 0]
    operator = getattr(torch.ops.npu, NAME)
    return operator(cache, actual_seq_lengths_kv=[one, two]) + hidden


@pytest.fixture
def compiled():
    """The compiled step and the runner of its graph whose lengths are inputs."""
    torch._dynamo.reset()
    backend = Backend(Options(cudagraph_mode="FULL"))
    function = torch.compile(step, backend=backend)
    for lengths in ((5, 7), (4, 6)):  # the second call makes Dynamo take lengths as inputs
        function(IDS, TABLE, CACHE, *lengths)
    return function, backend.runners[-1]


def test_replay_uses_the_lengths_of_the_call(compiled):
    function, runner = compiled
    for lengths in ((5, 7), (2, 3), (8, 3), (4, 4)):
        ids = torch.randint(0, 9, (2, 1))
        expected = step(ids, TABLE, CACHE, *lengths)
        assert torch.equal(function(ids, TABLE, CACHE, *lengths), expected)
    assert (runner.counters.captures, runner.counters.replays) == (1, 4)


def test_update_by_hand(compiled):
    function, runner = compiled
    function(IDS, TABLE, CACHE, 5, 7)
    runner.update(2, [{"actual_seq_lengths_kv": [2, 2]}])
    (entry,) = runner._entries.values()
    entry.graph.replay()
    assert torch.equal(entry.outputs[0], step(IDS, TABLE, CACHE, 2, 2))
    with pytest.raises(CaptureError, match="block_size"):
        runner.update(2, [{"block_size": [1]}])
    with pytest.raises(LookupError, match="8 rows"):
        runner.update(8, [{"actual_seq_lengths_kv": [2, 2]}])


def test_a_length_that_arithmetic_reads_is_new_in_each_replay():
    def reads(ids, table, cache, one, two):
        return step(ids, table, cache, one, two + 1) * two

    torch._dynamo.reset()
    backend = Backend(Options(cudagraph_mode="FULL"))
    function = torch.compile(reads, backend=backend)
    for lengths in ((5, 7), (4, 6), (4, 6), (3, 5), (4, 7), (3, 7)):
        expected = reads(IDS, TABLE, CACHE, *lengths)
        assert torch.equal(function(IDS, TABLE, CACHE, *lengths), expected)
    runner = backend.runners[-1]
    assert (runner.counters.captures, runner.counters.replays) == (1, 4)


def test_a_length_that_something_else_reads_decides_the_graph():
    def reads(ids, table, cache, one, two):
        return step(ids, table, cache, one, two) / two

    torch._dynamo.reset()
    backend = Backend(Options(cudagraph_mode="FULL"))
    function = torch.compile(reads, backend=backend)
    for lengths in ((5, 7), (4, 6), (4, 6), (4, 6), (4, 7), (3, 7), (3, 7)):
        expected = reads(IDS, TABLE, CACHE, *lengths)
        assert torch.equal(function(IDS, TABLE, CACHE, *lengths), expected)
    assert backend.runners[-1].counters.captures == 2  # for 6 and for 7


def test_cuda_says_that_lists_stay_as_captured():
    with pytest.raises(CaptureError, match="actual_seq_lengths_kv as captured"):
        refuse_update(None, [{"actual_seq_lengths_kv": [1]}])


def test_table_names_the_attention_operators():
    assert traits_of(f"npu::{NAME}").host_lists
