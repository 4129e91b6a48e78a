"""Experts on several ranks, by transformers' plans: the tokens of eager, and what is refused.

Where tokens are sent to experts, ranks have different numbers of them and come to different graphs,
so that FlashComm, which all ranks must come to, is not for that plan.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from expert_ranks import MASKS, SENDS, TENSOR, expert_case
from ranks import Ranks

from tests.slow import slow

OPERATORS = ("gating_top_k_softmax", "init_routing", "grouped_matmul", "finalize_routing")
TAKEN = {
    TENSOR: dict(zip(OPERATORS, (1, 1, 2, 1), strict=True)),
    MASKS: dict(zip(OPERATORS, (1, 0, 0, 1), strict=True)),
    SENDS: dict(zip(OPERATORS, (0, 0, 0, 1), strict=True)),
}
"""Spread -> what fires; Dynamo cuts the model, and one graph serves all layers."""
REFUSED = {
    TENSOR: (),
    MASKS: ("its sorted experts are read besides",),
    SENDS: ("its sorted experts are read besides",),
}
"""Rows of experts that are elsewhere are masked out, by the sorted experts."""


def check(ranks: Ranks, spread: str, flashcomm: bool, folder: Path) -> None:
    seed = random.randrange(2**20)
    print(f"seed {seed}")
    for one in ranks.run(expert_case, spread, flashcomm, str(folder), seed):
        assert one.found == one.expected
        assert {name: one.fired[name] for name in OPERATORS} == TAKEN[spread]
        assert bool(one.fired["sequence_parallel"]) == flashcomm
        assert one.left.issuperset(REFUSED[spread])


@pytest.mark.parametrize(
    ("spread", "flashcomm"),
    [
        (TENSOR, True),
        pytest.param(TENSOR, False, marks=slow),
        pytest.param(MASKS, True, marks=slow),
        pytest.param(MASKS, False, marks=slow),
        pytest.param(SENDS, False, marks=slow),
    ],
)
def test_two_ranks(two: Ranks, spread: str, flashcomm: bool, tmp_path: Path) -> None:
    check(two, spread, flashcomm, tmp_path)


@slow
@pytest.mark.parametrize(("spread", "flashcomm"), [(TENSOR, True), (MASKS, True), (SENDS, False)])
def test_four_ranks(four: Ranks, spread: str, flashcomm: bool, tmp_path: Path) -> None:
    check(four, spread, flashcomm, tmp_path)
