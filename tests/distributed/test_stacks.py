"""FlashComm and fused collectives on hand-made stacks, in real processes."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path

import pytest
import torch
from cases import FORCED, Outcome, captured, stack
from ranks import Ranks
from stacks import Kind

from ascend_passes.cost.profiles import Profile
from tests.slow import slow

LAYERS = 2
BFLOAT16_BOUND = 2**-8 * 2 * LAYERS
"""Per rank beyond two: each of a layer's two sums is rounded to bfloat16 once more per rank, in
another order. Two ranks add two numbers, which has no order: there the results must be equal."""
LSB_BOUND = 0.03
"""Fused norms round once less before they quantize, and sums in another order round elsewhere: int8
activations move by one step, the row's largest value over 127. That value is some 3.5 times the
root mean square, so if every activation moved, the relative error would be 3.5 / 127 = 0.028."""
FLOAT32_BOUND = 1e-5
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
    "later part of a pipeline": Kind(torch.bfloat16, later=True, head=False),
    "vllm": Kind(torch.bfloat16, collective="vllm", parallel_embedding=True),
    "vllm dynamic": Kind(torch.bfloat16, "dynamic", collective="vllm"),
}


def run(
    ranks: Ranks,
    kind: Kind,
    shapes: list[tuple[int, ...]],
    dynamic: bool = True,
    passes: str = FORCED,
    poisoned: bool = False,
    **options: object,
) -> list[Outcome]:
    seed = random.randrange(2**20)
    print(f"seed {seed}")
    chosen = {"passes": passes, "rules": "-*"} | options  # rules round otherwise; passes do not
    return ranks.run(stack, kind, seed, shapes, dynamic, chosen, poisoned)


def bound(kind: Kind, ranks: int, rounding: bool) -> float:
    """Largest relative error; `rounding` says whether rules or fused operators may round anew."""
    if ranks == 2 and not rounding:
        return 0.0
    if kind.dtype == torch.float32:
        return FLOAT32_BOUND
    order = BFLOAT16_BOUND * (ranks - 2 + rounding)
    return order + (LSB_BOUND if kind.quantized else 0.0)


@pytest.mark.parametrize("name", KINDS)
def test_two_ranks_compute_the_same_bits(two: Ranks, name: str) -> None:
    shapes: list[tuple[int, ...]] = [(7,), (8,), (2,)]
    for outcome in run(two, KINDS[name], shapes, matmul_reduce_scatter=False):
        assert outcome.fired == 4 + KINDS[name].parallel_embedding
        assert outcome.error == 0.0
        assert outcome.same_tokens


@pytest.mark.parametrize("name", ["float32", "static", "dynamic", "bias after", "vllm dynamic"])
@pytest.mark.parametrize(
    ("early", "fused"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=slow),
        pytest.param(False, True, marks=slow),
    ],
)
def test_padded_rows_may_hold_anything(two: Ranks, name: str, early: bool, fused: bool) -> None:
    passes = FORCED if early else f"{FORCED},-sequence_parallel.pad_early"
    chosen = {"passes": passes, "poisoned": True, "matmul_reduce_scatter": fused}
    for outcome in run(two, KINDS[name], [(7,), (5,)], **chosen):
        assert outcome.error == 0.0


@pytest.mark.parametrize("dynamic", [False, True])
def test_hugging_faces_three_dimensions(two: Ranks, dynamic: bool) -> None:
    for outcome in run(two, KINDS["bfloat16"], [(3, 5), (2, 4)], dynamic):
        assert outcome.fired == 4
        assert outcome.error == 0.0


@pytest.mark.parametrize("name", ["float32", "bfloat16", "static", "dynamic"])
def test_four_ranks_stay_within_the_order_of_summation(four: Ranks, name: str) -> None:
    kind = KINDS[name]
    for outcome in run(four, kind, [(9,), (8,), (5,)]):
        assert outcome.fired == 4
        assert outcome.error <= bound(kind, ranks=4, rounding=False)
        assert outcome.same_tokens or kind.dtype != torch.float32


def test_the_gather_moves_int8_rows_and_their_scales(two: Ranks) -> None:
    for outcome in run(two, KINDS["dynamic"], [(8,)], rules="", matmul_reduce_scatter=False):
        assert outcome.error <= LSB_BOUND
        # Of four layers' halves, all but the last end in a quantization; that one feeds the head.
        assert outcome.notes[0].endswith("gathers 7 values: 1 of bfloat16, 3 of float32, 3 of int8")


@pytest.mark.parametrize("dynamic", [False, True])
def test_rows_and_their_scales_are_gathered_together(two: Ranks, dynamic: bool) -> None:
    apart, joined = (
        run(two, KINDS["dynamic"], [(8,)], dynamic, passes, rules="", matmul_reduce_scatter=False)
        for passes in (FORCED, f"{FORCED},+join_gathers")
    )
    gather = "_c10d_functional::all_gather_into_tensor"
    for one, other in zip(apart, joined, strict=True):
        assert other.error <= LSB_BOUND
        assert (one.counts[gather], other.counts[gather]) == (7, 1)
        assert other.counts[f"{gather}_coalesced"] == 3
        assert one.sent == other.sent == other.estimated


@pytest.mark.parametrize("name", ["bfloat16", "static", "dynamic", "vllm", "vllm dynamic"])
def test_matmuls_fuse_with_their_collectives(two: Ranks, name: str) -> None:
    for outcome in run(two, KINDS[name], [(7,), (8,)]):
        assert outcome.fused == 4  # K = 64 is too small for a gather and its matmul
        assert outcome.error == 0.0


@pytest.mark.parametrize(
    "name",
    ["bfloat16", *(pytest.param(n, marks=slow) for n in ("static", "dynamic")), "vllm dynamic"],
)
def test_gathers_fuse_with_the_matmul_that_reads_them(two: Ranks, name: str) -> None:
    # The gather of dynamic quantization's scales is part of the operator, and no site of its own.
    kind = dataclasses.replace(KINDS[name], hidden=256)
    for outcome in run(two, kind, [(7,), (8,)]):
        assert outcome.fused == 4 + 4
        assert outcome.error == 0.0


@pytest.mark.parametrize(
    ("name", "beside"),
    [("bfloat16", (-1, 0, 1)), ("static", (1,)), ("dynamic", (1,)), ("vllm", (1,))],
)
def test_matmuls_fuse_with_all_reduces_where_flashcomm_is_off(
    two: Ranks, name: str, beside: tuple[int, ...]
) -> None:
    chosen = {"flashcomm": False, "matmul_all_reduce": True, "matmul_reduce_scatter_tokens": 7}
    for tokens in (7 + step for step in beside):
        fused = 4 if tokens > 7 else 0
        for outcome in run(two, KINDS[name], [(11,), (tokens,)], passes="", **chosen):
            assert (outcome.fused, outcome.error) == (fused, 0.0)


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


@pytest.mark.parametrize("threshold", [5, 8])
def test_the_plan_changes_right_above_the_threshold(two: Ranks, threshold: int) -> None:
    for beside, gathers in ((-1, 0), (0, 0), (1, 4)):
        shapes: list[tuple[int, ...]] = [(threshold + 3,), (threshold + beside,)]
        chosen = {"flashcomm_tokens": threshold, "matmul_reduce_scatter": False}
        for outcome in run(two, KINDS["bfloat16"], shapes, **chosen):
            assert outcome.counts.get("_c10d_functional::all_gather_into_tensor", 0) == gathers
            assert outcome.counts.get("_c10d_functional::all_reduce", 0) == (0 if gathers else 4)
            assert outcome.error == 0.0


def test_the_cost_model_draws_the_line(two: Ranks, tmp_path: Path) -> None:
    figures = Profile("slow memory", "none", {"float32": 1e12}, 1e9, 1e12, collective_latency=2e-5)
    path = tmp_path / "profile.json"
    path.write_text(figures.to_json())
    chosen = {"profile": str(path), "matmul_reduce_scatter": False, "flashcomm_tokens": -1}
    outcome = run(two, KINDS["bfloat16"], [(2,)], passes="", **chosen)[0]
    start = int(re.fullmatch(r".*; it gains from (\d+) tokens on", outcome.decision).group(1))
    assert 4 < start < 1000
    for shapes, gathers in (
        ([(start - 1,)], 0),
        ([(2,), (start + 1,), (start,)], 4),
        ([(start + 1,), (start - 1,)], 0),
    ):
        for outcome in run(two, KINDS["bfloat16"], shapes, passes="", **chosen):
            assert outcome.counts.get("_c10d_functional::all_gather_into_tensor", 0) == gathers
            assert outcome.error == 0.0
    # A threshold below the line waits for it; a graph of one token count is judged at that count.
    explicit = chosen | {"flashcomm_tokens": 3}
    for options, dynamic, tokens, gathers in (
        (explicit, True, start - 1, 0),
        (explicit, True, start, 4),
        (chosen, False, start - 1, 0),
        (chosen, False, start, 4),
    ):
        shapes = [(start + 2,), (tokens,)] if dynamic else [(tokens,)]
        for outcome in run(two, KINDS["bfloat16"], shapes, dynamic, passes="", **options):
            assert outcome.counts.get("_c10d_functional::all_gather_into_tensor", 0) == gathers


def test_flashcomm_removes_no_captured_size(two: Ranks) -> None:
    chosen = {"capture_sizes": "2,4,8,16", "matmul_reduce_scatter": False, "flashcomm_tokens": 7}
    counts = (4, 7, 8, 16)
    right = dict.fromkeys(counts, True)
    for mode in ("FULL_DECODE_ONLY", "FULL"):
        for flashcomm in (False, True):
            options = chosen | {"cudagraph_mode": mode, "flashcomm": flashcomm}
            found = two.run(captured, options, counts, mode == "FULL_DECODE_ONLY")
            assert found == [([4, 8, 16], right)] * 2


def test_a_graph_that_does_not_gain_stays(two: Ranks) -> None:
    for outcome in run(two, KINDS["bfloat16"], [(8,)], passes=""):
        assert outcome.fired == 0
        assert "no gain is estimated" in outcome.decision
        assert outcome.counts == {"_c10d_functional::all_reduce": 4}
