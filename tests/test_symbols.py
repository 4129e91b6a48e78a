"""Tracing a replacement takes nothing away from what the model's symbolic sizes may be."""

from __future__ import annotations

import torch

from ascend_passes import trace


def test_a_trace_fixes_no_size_of_the_model() -> None:
    # Of two tokens each of two ranks has one row, and tracing asks whether there is one row.
    given = trace.symbolic_inputs([(2, 8)], [torch.float32], "cpu", dynamic={2})[0]
    tokens = given.shape[0]
    with trace.faking(trace.fake_mode_of([given])):
        rows = given.new_empty((tokens + 1) // 2, 8)
    trace.trace(lambda x: x * 2, [rows])
    assert tokens.node.expr.free_symbols
