"""Numbers that Python counts: new in each replay where tensors take them, else told."""

from __future__ import annotations

import pytest
import torch

from ascend_passes import capture
from ascend_passes.capture.runner import MOST_GRAPHS, MOST_VALUES
from ascend_passes.options.value import Options

from .backend import Backend

IDS = torch.ones(2, 1, dtype=torch.int64)
LONG, NARROW = torch.arange(-3, 5), torch.arange(8, dtype=torch.int32)
WIDE = torch.arange(64)
FLOAT, HALF = torch.randn(8), torch.randn(8, dtype=torch.bfloat16)

TAKEN = {
    "sum": lambda n: LONG + n,
    "both sides": lambda n: (n - LONG, LONG - n * 2, LONG * n),
    "narrow": lambda n: NARROW + n,
    "truth": lambda n: (LONG > 0) + n,
    "floats": lambda n: (FLOAT * n, FLOAT - n, FLOAT.double() + n),
    "comparisons": lambda n: (n == LONG, n <= LONG, n < FLOAT, n != NARROW),
    "bounds": lambda n: (LONG.clamp(min=n), LONG.clamp_max(n), torch.remainder(LONG, n)),
    "choices": lambda n: (torch.where(LONG > 0, LONG, n), LONG.masked_fill(LONG > 1, n)),
    "made": lambda n: (torch.full((3,), n), torch.full((3,), n, dtype=torch.float32)),
    "counted": lambda n: (torch.arange(n, n + 4), torch.arange(n, n + 8, 2)),
    "window": lambda n: (LONG + max(n - 6, 0)) < n // 2,
    "written": lambda n: LONG.clone().add_(n).mul_(n),
    "returned": lambda n: (n + 1, max(n - 6, 0), LONG + 1),
}
DECIDES = {
    "a slice": ("slice", lambda n: WIDE[n : n + 3] * 2),
    "a size": ("zeros", lambda n: torch.zeros(n) + 1),
    "half precision": ("mul", lambda n: HALF * n),
    "a quotient": ("div", lambda n: LONG / n),
    "a scaled addend": ("add", lambda n: torch.add(LONG, NARROW, alpha=n)),
    "a scaled number": ("add", lambda n: torch.add(FLOAT, n, alpha=3)),
    "a dtype": ("add", lambda n: NARROW[0] + n),
}


def flat(result):
    return list(result) if isinstance(result, (list, tuple)) else [result]


def check(found, expected):
    for one, other in zip(flat(found), flat(expected), strict=True):
        if isinstance(other, torch.Tensor):
            assert (one.dtype, one.stride()) == (other.dtype, other.stride())
            assert torch.equal(one, other)
        else:
            assert one == other


def compiled_of(function, mode="FULL"):
    torch._dynamo.reset()
    backend = Backend(Options(cudagraph_mode=mode))

    def step(ids, n):
        return (ids * 2, *flat(function(n)))

    return torch.compile(step, backend=backend, dynamic=True), step, backend


@pytest.mark.parametrize("name", TAKEN)
def test_one_graph_for_all_values(name):
    compiled, step, backend = compiled_of(TAKEN[name])
    for n in (7, 9, 30, 8, 12, 2**40 if name == "sum" else 100):
        check(compiled(IDS, n), step(IDS, n))
    (runner,) = backend.runners
    assert (runner.counters.captures, runner.counters.replays) == (1, 5)
    assert not runner.report().misses


@pytest.mark.parametrize("name", DECIDES)
def test_a_number_that_decides_has_a_graph_for_each_of_few_values(name):
    operator, function = DECIDES[name]
    compiled, step, backend = compiled_of(function)
    for n in [7, 7, 7, *range(8, 30), 7]:
        check(compiled(IDS, n), step(IDS, n))
    (runner,) = backend.runners
    assert runner.counters.captures == 1
    assert runner.counters.replays == 3
    assert runner.counters.uncaptured == 30 - 7 - MOST_VALUES
    (miss,) = runner.report().misses
    assert "a number that Python counts" in miss.reason
    assert operator in miss.node
    assert "lambda n" in miss.place.line


def test_uncaptured_calls_take_the_number_as_well():
    compiled, step, backend = compiled_of(lambda n: LONG + n, mode="FULL_DECODE_ONLY")
    for ids in (IDS, IDS.expand(2, 3), IDS):
        for n in (5, 6, 9):
            check(compiled(ids, n), step(ids, n))
    assert backend.runners[-1].counters.uncaptured


def test_a_graph_without_numbers_stays_as_it_is():
    compiled, _, backend = compiled_of(lambda n: LONG + 1)
    compiled(IDS, 5)
    (runner,) = backend.runners
    before = str(runner.graph)
    gm = torch.fx.GraphModule({}, runner.graph)
    assert capture.prepare(gm, Options(cudagraph_mode="FULL"), "cpu") == 0
    assert str(gm.graph) == before


def test_captured_graphs_are_what_is_limited(monkeypatch):
    """Sizes that came once hold no place; the sentence is said when the graphs are there."""
    monkeypatch.setattr("ascend_passes.capture.runner.MOST_GRAPHS", 3)
    monkeypatch.setattr("ascend_passes.capture.runner.MOST_WAITING", 4)
    assert MOST_GRAPHS == 64
    sizes = ",".join(map(str, range(1, 30)))
    torch._dynamo.reset()
    backend = Backend(Options(cudagraph_mode="FULL", capture_sizes=sizes))
    compiled = torch.compile(lambda ids: ids * 2, backend=backend, dynamic=True)
    for batch in [*range(2, 20), *[20, 21, 22, 23] * 3]:
        ids = torch.randint(0, 9, (batch, 1))
        assert torch.equal(compiled(ids), ids * 2)
    (runner,) = backend.runners
    assert runner.counters.captures == 3
    assert runner.counters.replays == 6
    assert sum(entry.graph is not None for entry in runner._entries.values()) == 3
    assert len(runner._entries) <= 3 + 4
    first, second = runner.report().misses
    assert "4 sizes came once" in first.reason
    assert "3 graphs are captured, the most there may be" in second.reason
