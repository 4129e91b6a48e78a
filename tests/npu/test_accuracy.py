"""The stated bounds are complete, and each of them is what some test of an operator asks for."""

from __future__ import annotations

import re
from pathlib import Path

from ascend_passes import npu
from ascend_passes.npu.accuracy import AS_EXACT_AS, BOUNDS, LSB

ASKED = re.compile(r'bound\(\s*"(\w+)", "([^"]+)"')


def test_every_operator_has_a_bound_or_a_sentence():
    assert {*BOUNDS} | {*AS_EXACT_AS} == {*npu.OPERATORS}
    assert not {*BOUNDS} & {*AS_EXACT_AS}


def test_every_bound_is_asked_for_by_a_test():
    stated = {(name, one.result) for name, bounds in BOUNDS.items() for one in bounds}
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    assert {pair for text in texts for pair in ASKED.findall(text)} == stated


def test_an_integer_is_the_nearest_one_or_its_neighbour_in_a_tie():
    for bounds in BOUNDS.values():
        for one in bounds:
            assert one.unit != LSB or max(one.largest.values()) < 0.51
            assert min(one.largest.values()) >= 0.5
