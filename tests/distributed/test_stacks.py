"""FlashComm and fused collectives on hand-made stacks, in real processes."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from cases import FORCED, Outcome, stack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ranks import Ranks
from stacks import Kind

LAYERS = 2
BFLOAT16_BOUND = 2**-8 * 2 * LAYERS
"""Per rank beyond two: each of a layer's two sums is rounded to bfloat16 once more per rank, in
another order. Two ranks add two numbers, which has no order: there the results must be equal."""
LSB_BOUND = 0.03
"""Fused norms round once less before they quantize, which moves int8 values by one step of 127."""
KINDS = {
    "float32": Kind(),
    "bfloat16": Kind(torch.bfloat16),
    "static": Kind(torch.bfloat16, "static"),
    "dynamic": Kind(torch.bfloat16, "dynamic"),
    "bias after": Kind(torch.bfloat16, "dynamic", bias="after"),
    "bias on rank 0": Kind(bias="rank0"),
    "parallel embedding": Kind(torch.bfloat16, parallel_embedding=True),
    "auxiliary states": Kind(torch.bfloat16, auxiliary=True),
    "pipeline boundary": Kind(torch.bfloat16, head=False),
    "in place": Kind(inplace=True),
}


def run(
    ranks: Ranks,
    kind: Kind,
    shapes: list[tuple[int, ...]],
    dynamic: bool = True,
    passes: str = FORCED,
    **options: object,
) -> list[Outcome]:
    seed = random.randrange(2**20)
    print(f"seed {seed}")
    chosen = {"passes": passes, "rules": "-*"} | options  # rules round otherwise; passes do not
    return ranks.run(stack, kind, seed, shapes, dynamic, chosen)


@pytest.mark.parametrize("name", KINDS)
def test_two_ranks_compute_the_same_bits(two: Ranks, name: str) -> None:
    shapes: list[tuple[int, ...]] = [(7,), (8,), (2,)]
    for outcome in run(two, KINDS[name], shapes, matmul_reduce_scatter=False):
        assert outcome.fired == 4 + KINDS[name].parallel_embedding
        assert outcome.error == 0.0
        assert outcome.same_tokens


@pytest.mark.parametrize("dynamic", [False, True])
def test_hugging_faces_three_dimensions(two: Ranks, dynamic: bool) -> None:
    for outcome in run(two, KINDS["bfloat16"], [(3, 5), (2, 4)], dynamic):
        assert outcome.fired == 4
        assert outcome.error == 0.0


@pytest.mark.parametrize("name", ["float32", "bfloat16", "static", "dynamic"])
def test_four_ranks_stay_within_the_order_of_summation(four: Ranks, name: str) -> None:
    kind = KINDS[name]
    bound = 1e-5 if kind.dtype == torch.float32 else 2 * BFLOAT16_BOUND
    for outcome in run(four, kind, [(9,), (8,), (5,)]):
        assert outcome.fired == 4
        assert outcome.error <= bound
        assert outcome.same_tokens or kind.dtype != torch.float32


def test_the_gather_moves_int8_rows_and_their_scales(two: Ranks) -> None:
    for outcome in run(two, KINDS["dynamic"], [(8,)], rules="", matmul_reduce_scatter=False):
        assert outcome.error <= LSB_BOUND
        # Of four layers' halves, all but the last end in a quantization; that one feeds the head.
        assert outcome.notes[0].endswith("gathers 7 values: 1 of bfloat16, 3 of float32, 3 of int8")


@pytest.mark.parametrize("name", ["bfloat16", "static", "dynamic"])
def test_matmuls_fuse_with_their_collectives(two: Ranks, name: str) -> None:
    for outcome in run(two, KINDS[name], [(7,), (8,)]):
        assert outcome.fused == 4 if name == "bfloat16" else outcome.fused >= 4
        assert outcome.error == 0.0


def test_an_integer_bias_of_one_rank_keeps_the_matmul_apart(two: Ranks) -> None:
    kind = dataclasses.replace(KINDS["dynamic"], bias="rank0")
    first, second = run(two, kind, [(8,)], matmul_reduce_scatter=False)
    assert first.error == second.error == 0.0


@pytest.mark.parametrize("name", ["bias on rank 0", "dynamic"])
def test_ranks_fuse_alike_where_one_of_them_cannot(two: Ranks, name: str) -> None:
    kind = dataclasses.replace(KINDS[name], dtype=torch.bfloat16, bias="rank0")
    first, second = run(two, kind, [(7,), (8,)])
    for outcome in (first, second):
        assert (outcome.fired, outcome.fused, outcome.error) == (4, 0, 0.0)
    assert sum("rank 0 cannot" in reason for reason in second.misses) == 4


IDENTITIES = [
    "sink_add",
    "sink_pointwise",
    "sink_norm",
    "sink_quantize",
    "sink_view",
    "sink_columns",
    "chunk_replicated",
    "cancel_chunk",
    "gather_early",
]


@given(
    off=st.sets(st.sampled_from(IDENTITIES)),
    name=st.sampled_from(sorted(KINDS)),
    shape=st.sampled_from([(2,), (5,), (8,), (1, 6), (3, 3)]),
    dynamic=st.booleans(),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_part_of_the_rewriting_is_right_alone(
    two: Ranks, off: set[str], name: str, shape: tuple[int, ...], dynamic: bool
) -> None:
    switches = ",".join([FORCED, *(f"-sequence_parallel.{identity}" for identity in off)])
    for outcome in run(two, KINDS[name], [shape], dynamic, passes=switches):
        assert outcome.error == 0.0


@pytest.mark.parametrize("threshold", [5, 8])
def test_the_plan_changes_right_above_the_threshold(two: Ranks, threshold: int) -> None:
    for beside, gathers in ((-1, 0), (0, 0), (1, 4)):
        shapes: list[tuple[int, ...]] = [(threshold + 3,), (threshold + beside,)]
        chosen = {"flashcomm_tokens": threshold, "matmul_reduce_scatter": False}
        for outcome in run(two, KINDS["bfloat16"], shapes, **chosen):
            assert outcome.counts.get("_c10d_functional::all_gather_into_tensor", 0) == gathers
            assert outcome.counts.get("_c10d_functional::all_reduce", 0) == (0 if gathers else 4)
            assert outcome.error == 0.0


def test_the_estimated_bytes_are_those_that_are_sent(four: Ranks) -> None:
    options = {"dynamic": False, "matmul_reduce_scatter": False}
    for name, shape in (("dynamic", (8,)), ("bfloat16", (9,))):
        for outcome in run(four, KINDS[name], [shape], **options):
            assert outcome.sent == outcome.estimated > 0


def test_a_graph_that_does_not_gain_stays(two: Ranks) -> None:
    for outcome in run(two, KINDS["bfloat16"], [(8,)], passes=""):
        assert outcome.fired == 0
        assert "no gain is estimated" in outcome.decision
        assert outcome.counts == {"_c10d_functional::all_reduce": 4}
