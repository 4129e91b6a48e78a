"""A fault of one rank ends on all of them, with a sentence, and long before anybody's patience."""

from __future__ import annotations

import pytest
from fault_cases import CASES, fault_of
from processes import run

OFTEN = (
    "another graph",
    "another group of the same ranks",
    "a bad option on a mesh",
    "raises while Dynamo traces",
    "fails in tracing only",
    "raises in AOTAutograd, with DTensors",
    "dies while it compiles",
    "the holder of the store dies",
    "is stopped for a while",
    "compiles again alone",
    "compiles again alone, with FlashComm",
    "one writes weights that it merged",
)
"""The others are like one of these; `python -m tests.distributed.faults` runs them all."""


@pytest.mark.parametrize("name", OFTEN)
def test_fault(name: str) -> None:
    case = CASES[name]
    ends = run(case.run, len(case.ends), *case.arguments)
    assert fault_of(case, [end.told for end in ends]) == ""
