"""Results of a replay lie and share memory as eager's do, and with nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch

import ascend_passes
from ascend_passes.options.value import Options

from .backend import Backend, graph_of, runner_of

CASES = {
    "half of a cat": lambda x: torch.cat([x, x], -1).chunk(2, -1)[1],
    "both halves": lambda x: torch.cat([x, -x], -1).chunk(2, -1),
    "transposed": lambda x: (x * 2).transpose(0, -1),
    "every second": lambda x: (x + 1)[..., ::2],
    "expanded": lambda x: (x[:1] * 2).expand(3, *x.shape),
    "expanded and transposed": lambda x: (x[..., :1] * 2).expand(x.shape).transpose(0, 1),
    "windows": lambda x: (x + 1).flatten().unfold(0, 4, 2),
    "empty": lambda x: ((x * 2)[3:], x.new_empty(0)),
    "0-d": lambda x: (x.sum(), x.flatten()[3] * 1.5, (x * 2).flatten()[5]),
    "views and their base": lambda x: ((y := x * 2), y[..., 0], y.t()),
    "bits": lambda x: ((y := x * 2), y.view(torch.int32)),
    "equal but apart": lambda x: (x * 2, x * 2, torch.zeros(3), torch.zeros(3)),
    "the same twice": lambda x: ((y := x * 2), y),
    "input": lambda x: (x, x * 2),
    "views of the input": lambda x: (x[1:], x.transpose(0, 1), x[..., None], x * 2),
    "channels last": lambda x: x[None, None].contiguous(memory_format=torch.channels_last) * 1,
    "no tensors": lambda x: (x.shape[0], x * x.shape[-1], None),
}
INPUTS = {
    "plain": lambda: torch.randn(2, 16),
    "transposed": lambda: torch.randn(16, 2).t(),
    "with gaps": lambda: torch.randn(5, 20)[1:3, 2:18],
    "expanded": lambda: torch.randn(2, 1).expand(2, 16),
}
OF_INPUTS = ("half of a cat", "input", "views of the input")


X = torch.randn(2, 8)


def flat(result):
    return list(result) if isinstance(result, (list, tuple)) else [result]


def tensors(values):
    return [entry for entry in values if isinstance(entry, torch.Tensor)]


def lies(result, x):
    """Sizes, strides, offsets, dtypes; and which of the results and the input share memory."""
    found = [*tensors(flat(result)), x]
    pairs = itertools.combinations(enumerate(found), 2)
    shared = [
        (i, j)
        for (i, a), (j, b) in pairs
        if a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0
    ]
    return [(t.shape, t.stride(), t.storage_offset(), t.dtype) for t in found], shared


@pytest.mark.parametrize(("mode", "dynamic"), [("FULL", True), ("FULL_DECODE_ONLY", False)])
@pytest.mark.parametrize(
    ("name", "given"),
    [(name, "plain") for name in CASES]
    + [(name, given) for name in OF_INPUTS for given in INPUTS if given != "plain"],
)
def test_results_lie_as_eagers_and_stay(name, given, mode, dynamic):
    def step(ids, x):
        return ids * 2, *flat(CASES[name](x))

    torch._dynamo.reset()
    backend = Backend(Options(cudagraph_mode=mode))
    compiled = torch.compile(step, backend=backend, dynamic=dynamic)
    kept = []
    for _ in range(4):
        ids, x = torch.ones(1, 1, dtype=torch.int64), INPUTS[given]()
        expected, found = step(ids, x), compiled(ids, x)
        assert lies(found, x) == lies(expected, x)
        kept.append((found, expected))
    for found, expected in kept:  # after all replays
        for one, other in zip(flat(found), flat(expected), strict=True):
            assert torch.equal(one, other) if isinstance(other, torch.Tensor) else one == other
    memory = [{t.untyped_storage().data_ptr() for t in tensors(flat(found))} for found, _ in kept]
    assert not any((one & other) - {0} for one, other in itertools.combinations(memory, 2))
    assert [runner.counters.replays for runner in backend.runners] == [3]


@pytest.mark.parametrize("mode", ["FULL", "FULL_DECODE_ONLY"])
@pytest.mark.parametrize("off", [False, True])
def test_ascend_dense_keeps_strides_in_a_replay(mode, off):
    def step(ids, x):
        return CASES["half of a cat"](x + ids)

    torch._dynamo.reset()
    ascend_passes.reset()
    options = {"cudagraph_mode": mode, "off": off}
    compiled = torch.compile(step, backend="ascend_dense", dynamic=True, options=options)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    for _ in range(3):
        x = torch.randn(1, 2, 16)
        found = compiled(ids, x)
        assert found.stride() == (64, 32, 1)
        assert torch.equal(found, x)
    (report,) = ascend_passes.reports()
    assert "captured graphs: 1, of 3 calls 2 replayed one and 0 ran uncaptured" in report.notes


def test_a_runner_gives_views_of_the_callers_tensors():
    """AOTAutograd makes such results anew and asks the graph's for their place alone."""
    gm = graph_of(lambda ids, x: (x[..., 1:], x * ids), torch.ones(1, 1, dtype=torch.int64), X)
    runner = runner_of(gm)
    for _ in range(4):
        ids, x = torch.ones(1, 1, dtype=torch.int64), torch.randn(2, 8)
        order = [ids if n.meta["val"].dtype == ids.dtype else x for n in inputs_of(gm)]
        view, product = runner(*order)
        x.add_(1)
        assert torch.equal(view, x[..., 1:])
        torch.testing.assert_close(product, x - 1)
    assert runner.counters.replays == 3


def inputs_of(gm):
    return gm.graph.find_nodes(op="placeholder")


@torch.no_grad()
def test_a_tensor_that_is_returned_twice_is_one_tensor():
    torch._dynamo.reset()
    ascend_passes.reset()
    compiled = torch.compile(
        lambda ids: ((y := ids * 2), y.type_as(y)),
        backend="ascend_dense",
        options={"cudagraph_mode": "FULL"},
    )
    for _ in range(4):
        one, other = compiled(torch.ones(2, 1, dtype=torch.int64))
        assert one is other
    (report,) = ascend_passes.reports()
    assert "captured graphs: 1, of 4 calls 3 replayed one" in " ".join(report.notes)
