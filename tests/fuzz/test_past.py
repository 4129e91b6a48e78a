"""What was wrong once stays right."""

from __future__ import annotations

import pytest

from tests.fuzz.check import RIGHT, check
from tests.fuzz.past import PAST
from tests.fuzz.printing import printed


@pytest.mark.parametrize("name", PAST)
def test_a_past_fault(name):
    verdict = check(PAST[name], formulas=False)
    assert verdict.kind == RIGHT, "\n".join([*verdict.lines, printed(PAST[name])])
