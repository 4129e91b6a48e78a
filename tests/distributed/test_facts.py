"""A rank compiles again for its own weights and numbers without the others, who may not know."""

from __future__ import annotations

import pytest
from facts import written
from ranks import Ranks


@pytest.mark.parametrize(
    ("case", "merged"),
    [
        ("equal on one rank", [1, 0]),
        ("all write alike", [1, 1]),
        ("one rank writes", [1, 1]),
        ("one rank's number", [1, 1]),
    ],
)
def test_what_one_rank_holds_is_its_own_affair(two: Ranks, case: str, merged: list[int]) -> None:
    # A rank that asked the others would raise: they are in the collective, not in an exchange.
    for (right, found, _), expected in zip(two.run(written, case), merged, strict=True):
        assert all(right), right
        assert found >= expected
