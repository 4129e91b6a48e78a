"""The table of transformers' families is true: some of its rows, others each day."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("transformers")

import ascend_passes
from tests.models.families import PAGE, measured
from tests.soundness.today import seed_of_the_day

COUNT = 3
ROWS = [
    [cell.strip() for cell in line.split("|")[1:5]]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and " of " in line
]
"""Family, graphs, norms found of norms called, rotations found of rotations called."""


@pytest.mark.parametrize("row", random.Random(seed_of_the_day()).sample(ROWS, COUNT), ids=str)
def test_a_row_is_true(row):
    family, graphs, norms, rotations = row
    torch._dynamo.reset()
    ascend_passes.reset()
    found = measured(family, torch.bfloat16)
    assert not found["errors"]
    assert [family, str(found["graphs"])] == [family, graphs]
    assert f"{found['norms']} of {found['of norms']}" == norms
    assert f"{found['rotations']} of {found['of rotations']}" == rotations


def test_nearly_all_norms_and_rotations_are_found():
    """98 % and 95 % at least."""
    for column, share in ((2, 0.98), (3, 0.95)):
        counts = [[int(number) for number in row[column].split(" of ")] for row in ROWS]
        assert sum(min(pair) for pair in counts) >= share * sum(of for _, of in counts)
