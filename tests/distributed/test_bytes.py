"""Bytes on the wire: what the cost model counts from a graph is what processes really send."""

from __future__ import annotations

import dataclasses

import pytest
from ranks import Ranks
from test_stacks import KINDS, LAYERS, run

HIDDEN, TOKENS, RANKS = 5120, 64, 4
"""Qwen3-32B's hidden size at tensor-parallel size 4: what its layers send is `[T, 5120]`."""
HEADERS = 0.01
"""gloo's message headers, 48 bytes each, beside messages of some 10 KiB and of 64 scales."""


def test_the_estimated_bytes_are_those_of_the_calls(four: Ranks) -> None:
    options = {"dynamic": False, "matmul_reduce_scatter": False}
    for name, shape in (("dynamic", (8,)), ("bfloat16", (9,)), ("vllm", (9,))):
        for outcome in run(four, KINDS[name], [shape], **options):
            assert outcome.sent == outcome.estimated > 0


@pytest.mark.parametrize("name", ["bfloat16", "dynamic"])
def test_the_estimated_bytes_are_really_sent(four: Ranks, name: str) -> None:
    kind = dataclasses.replace(KINDS[name], hidden=HIDDEN)
    rows = TOKENS * HIDDEN
    share = (RANKS - 1) / RANKS
    summed = 2 * LAYERS * 2 * rows * 2 * share
    # int8 rows with a float32 scale each before a matmul; the last gather feeds the head.
    gathered = {"bfloat16": 2 * rows, "dynamic": rows + 4 * TOKENS}[name]
    gathers = ((2 * LAYERS - 1) * gathered + 2 * rows) * share
    for passes, estimated in (
        ("-sequence_parallel", summed),
        ("-sequence_parallel.cost", summed / 2 + gathers),
    ):
        options = {"dynamic": False, "matmul_reduce_scatter": False, "passes": passes}
        for outcome in run(four, kind, [(TOKENS,)], **options):
            assert outcome.estimated == estimated
            assert outcome.by_gloo <= outcome.written <= outcome.by_gloo * (1 + HEADERS)
