"""Graphs with collectives of two mesh dimensions, whose groups each rank calls otherwise."""

from __future__ import annotations

import random

import pytest
from ranks import Ranks
from sweep import Shape, check, shapes, wrong

COUNT = 8
SEED = random.randrange(2**20)


@pytest.mark.parametrize("shape", shapes(COUNT, SEED), ids=range(COUNT))
def test_tensor_and_data_parallel(four: Ranks, shape: Shape) -> None:
    print(f"seed {SEED}: {shape}")
    assert wrong(shape, four.run(check, shape, (2, 2), SEED, True)) == ""
