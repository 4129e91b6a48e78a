"""What an operator declares of itself is enough to test it: its example, formula and limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ascend_passes import npu
from tests.npu.draw import generator, seeds, tokens
from tests.npu.limit_cases import A2, A3
from tests.numerics import lsb_distance, ulp_distance

WITH_FORMULA = [name for name, operator in npu.OPERATORS.items() if operator.exact is not None]
WITH_EXAMPLE = [name for name, operator in npu.OPERATORS.items() if operator.example is not None]
DISTANCE = {"ULP": ulp_distance, "LSB": lsb_distance}


@pytest.mark.parametrize("name", WITH_FORMULA)
def test_the_reference_is_within_its_bounds(name):
    operator = npu.OPERATORS[name]
    assert operator.example is not None and not isinstance(operator.accuracy, str)
    dtypes = list(operator.accuracy[0].largest)

    @given(seeds, tokens, st.integers(1, 40), st.sampled_from(dtypes))
    def check(seed, rows, width, dtype):
        arguments = operator.example(generator(seed), rows, width, dtype)
        found = operator.reference(**arguments)
        found = (found,) if isinstance(found, Tensor) else found
        exact = operator.exact(**arguments)
        for one, wanted, bound in zip(found, exact, operator.accuracy, strict=True):
            assert DISTANCE[bound.unit](one, wanted) <= bound.largest[dtype], bound.result

    check()


@pytest.mark.parametrize("name", WITH_EXAMPLE)
@pytest.mark.parametrize("soc", [A2, A3])
def test_the_example_is_legal(name, soc):
    for seed in range(20):
        arguments = npu.OPERATORS[name].example(generator(seed), 3, 8, torch.bfloat16)
        assert [why for holds, why in npu.legality(name, arguments, soc) if not holds] == []


def test_a_formula_that_is_another_is_seen(monkeypatch):
    operator = npu.OPERATORS["npu_geglu"]
    other = lambda **given: operator.exact(**(given | {"approximate": 1 - given["approximate"]}))  # noqa: E731
    arguments = operator.example(generator(0), 9, 40, torch.float16)
    found, wrong = operator.reference(**arguments), other(**arguments)
    assert ulp_distance(found[0], wrong[0]) > operator.accuracy[0].largest[torch.float16]
