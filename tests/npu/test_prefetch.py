from __future__ import annotations

import pytest
import torch
from torch import fx

from ascend_passes import npu


def test_prefetch_returns_nothing_and_changes_nothing():
    weight = torch.randn(4, 4)
    before = weight.clone()
    assert npu.npu_prefetch(weight, None, 1 << 30, 60) is None
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("size", "offset", "message"),
    [(0, 0, "must be positive"), (1, -1, "must not be negative"), (1, 64, "outside")],
)
def test_bad_arguments_are_errors(size, offset, message):
    with pytest.raises(RuntimeError, match=message):
        npu.npu_prefetch(torch.randn(4, 4), None, size, offset)


def test_dead_code_elimination_keeps_it():
    graph = fx.Graph()
    weight = graph.placeholder("weight")
    graph.call_function(torch.ops.npu.npu_prefetch.default, (weight, None, 64))
    graph.output(weight)
    graph.eliminate_dead_code()
    assert len(graph.nodes) == 3
