"""Product, sum over ranks, residual and norm as vllm-ascend's one operator, on two ranks."""

from __future__ import annotations

import pytest
import torch
from all_reduce_norm import Case, Normed, run
from ranks import Ranks
from torch import Tensor

from ascend_passes import npu
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.ir.graph import Context
from ascend_passes.options.plans import Plan
from ascend_passes.passes.matmul_collective.all_reduce_norm import fuse_norms
from tests.graphs import traced

FUSED = "_C_ascend::matmul_allreduce_add_rmsnorm"
BASE = "npu::npu_mm_all_reduce_base"
PLAIN = "_c10d_functional::all_reduce"
NORM_ULP = 1.51
"""Of `npu_rms_norm` in both half precisions, see `docs/accuracy.md`."""


def on_both(two: Ranks, case: Case, **options: object) -> list[Normed]:
    found = two.run(run, case, options)
    for one in found:
        assert one.sum_error <= 1.0
        assert one.norm_error <= NORM_ULP or case.last
    return found


@pytest.mark.parametrize(
    "case",
    [Case(), Case(shape=(3, 200)), Case(dtype=torch.float16, columns=48), Case(vllm=True)],
    ids=["bfloat16", "three dims", "float16", "vllm"],
)
def test_it_is_one_operator_near_float64(two: Ranks, case: Case) -> None:
    for one in on_both(two, case):
        assert (one.operators, one.misses) == ((FUSED,), ())


def test_a_sum_that_nobody_reads_is_not_gathered(two: Ranks) -> None:
    whole, alone = on_both(two, Case()), on_both(two, Case(last=True))
    for one, other in zip(whole, alone, strict=True):
        assert other.operators == (FUSED,)
        assert torch.equal(one.y, other.y)


@pytest.mark.parametrize(
    ("case", "left", "why"),
    [
        (Case(tokens=511), BASE, "fuses above 512 tokens; here are 512"),
        (Case(turned=True), BASE, "lies as [K, N]"),
        (Case(columns=72), BASE, "N = 72 is not a multiple of 16"),
        (Case(dynamic=True), BASE, "do not provably fit a window"),
        (Case(shared=True), BASE, "is read without the residual as well"),
        (Case(bias="all"), BASE, "has a bias"),
        (Case(bias="first"), BASE, "has a bias"),
        (Case(dtype=torch.float32), PLAIN, "x1 is float32"),
    ],
    ids=lambda one: str(one) if isinstance(one, str) else "",
)
def test_what_it_does_not_take_stays_with_the_reason(
    two: Ranks, case: Case, left: str, why: str
) -> None:
    for one in two.run(run, case, {}):
        assert one.operators == (left,)
        assert any(why in reason for reason in one.misses), one.misses


def test_it_stays_where_vllm_ascend_is_not_loaded() -> None:
    def layer(x: Tensor, weight: Tensor, residual: Tensor, gain: Tensor) -> Tensor:
        started = torch.ops._c10d_functional.all_reduce(x @ weight.t(), "sum", "tp")
        total = torch.ops._c10d_functional.wait_tensor(started)
        return npu.npu_add_rms_norm(total, residual, gain, 1e-6)[0]

    shapes = ((600, 96), (64, 96), (600, 64), (64,))
    graph = traced(layer, [torch.ones(shape).bfloat16() for shape in shapes]).graph
    plan = Plan("large prefill", 513, 1000, matmul_collective=True)
    with assuming(Group("tp", 2, 0)):
        report = fuse_norms(graph, Context(plan=plan))
    (miss,) = report.misses
    assert "vllm-ascend's library" in miss.reason and not report.fired


def test_flashcomm_wins_where_it_acts(two: Ranks) -> None:
    forced = {"flashcomm": True, "flashcomm_tokens": 0, "passes": "-sequence_parallel.cost"}
    for one in two.run(run, Case(), forced):
        assert FUSED not in one.operators
        assert one.misses == ()
