"""Tensor-parallel models that we did not write: the same greedy tokens, or scores in the bound."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hugging_face import case, torch_model, transformers_model
from ranks import Ranks
from stacks import Kind
from test_stacks import KINDS, bound

from tests.slow import slow

SUMS = 4
"""Two layers with two all_reduces each."""


def check(
    ranks: Ranks,
    make: object,
    family: str,
    folder: Path,
    least: int = SUMS,
    kind: Kind = KINDS["float32"],
) -> None:
    seed = random.randrange(2**20)
    print(f"seed {seed}")
    arguments = (make, family, str(folder), kind, seed)
    for expected, found, fired, error in ranks.run(case, *arguments):
        assert found == expected or kind.dtype != torch.float32
        assert error <= bound(kind, ranks.world, rounding=True)
        assert fired >= least


@pytest.mark.parametrize(("family", "least"), [("Llama", SUMS), ("Qwen3", 1)])
def test_transformers_plan(two: Ranks, family: str, least: int, tmp_path: Path) -> None:
    # Dynamo breaks transformers' sharded Qwen3 into many graphs: few sums have a norm in theirs.
    check(two, transformers_model, family, tmp_path, least)


@pytest.mark.parametrize("name", ["bfloat16", "static", "dynamic"])
def test_transformers_plan_in_other_types(two: Ranks, name: str, tmp_path: Path) -> None:
    check(two, transformers_model, "Llama", tmp_path, kind=KINDS[name])


@pytest.mark.parametrize(
    "name", ["dynamic", *(pytest.param(name, marks=slow) for name in ("float32", "static"))]
)
def test_transformers_plan_on_four_ranks(four: Ranks, name: str, tmp_path: Path) -> None:
    check(four, transformers_model, "Llama", tmp_path, kind=KINDS[name])


@slow
def test_torch_plan_in_bfloat16(two: Ranks, tmp_path: Path) -> None:
    check(two, torch_model, "Llama", tmp_path, kind=KINDS["bfloat16"])


def test_torch_plan(two: Ranks, tmp_path: Path) -> None:
    check(two, torch_model, "Llama", tmp_path)


@slow
def test_four_ranks(four: Ranks, tmp_path: Path) -> None:
    check(four, torch_model, "Qwen3", tmp_path)
