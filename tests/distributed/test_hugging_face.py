"""Tensor-parallel models that we did not write give the same greedy tokens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hugging_face import case, torch_model, transformers_model
from ranks import Ranks

SUMS = 4
"""Two layers with two all_reduces each."""


def check(ranks: Ranks, make: object, family: str, folder: Path, least: int = SUMS) -> None:
    seed = random.randrange(2**20)
    print(f"seed {seed}")
    for expected, found, fired in ranks.run(case, make, family, str(folder), seed):
        assert found == expected
        assert fired >= least


@pytest.mark.parametrize(("family", "least"), [("Llama", SUMS), ("Qwen3", 1)])
def test_transformers_plan(two: Ranks, family: str, least: int, tmp_path: Path) -> None:
    # Dynamo breaks transformers' sharded Qwen3 into many graphs: few sums have a norm in theirs.
    check(two, transformers_model, family, tmp_path, least)


def test_torch_plan(two: Ranks, tmp_path: Path) -> None:
    check(two, torch_model, "Llama", tmp_path)


def test_four_ranks(four: Ranks, tmp_path: Path) -> None:
    check(four, torch_model, "Qwen3", tmp_path)
