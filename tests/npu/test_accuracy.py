"""The stated bounds are complete, and each of them is what some test of an operator asks for."""

from __future__ import annotations

import re
from pathlib import Path

from ascend_passes import npu
from ascend_passes.npu.accuracy import LSB

ASKED = re.compile(r'bound\(\s*"(\w+)", "([^"]+)"')


def test_every_operator_has_a_bound_or_a_sentence():
    assert all(operator.accuracy for operator in npu.OPERATORS.values())


def in_units():
    """The bounds of each operator that states them in units."""
    stated = {name: operator.accuracy for name, operator in npu.OPERATORS.items()}
    return {name: bounds for name, bounds in stated.items() if not isinstance(bounds, str)}


def test_every_bound_is_asked_for_by_a_test():
    asked_here = {name for name, operator in npu.OPERATORS.items() if operator.exact is not None}
    stated = {
        (name, one.result)
        for name, bounds in in_units().items()
        for one in bounds
        if name not in asked_here
    }
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    assert {pair for text in texts for pair in ASKED.findall(text)} == stated


def test_an_integer_is_the_nearest_one_or_its_neighbour_in_a_tie():
    for bounds in in_units().values():
        for one in bounds:
            assert one.unit != LSB or max(one.largest.values()) < 0.51
            assert min(one.largest.values()) >= 0.5
