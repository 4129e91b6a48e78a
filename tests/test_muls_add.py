"""`x * s + y` becomes one add where it is asked for: when it stays, and what it rounds."""

from __future__ import annotations

import pytest
import torch

from ascend_passes.compile.stages import fuse
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options
from tests.graphs import traced

ON = Options(rules="-*,+muls_add")
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
FACTOR = 2.5
ROUNDED_IN_FLOAT32 = 2.0**-23
"""Of the magnitudes of both terms: product and sum, where the machine does not fuse them."""


def scaled(x, y):
    return x * FACTOR + y


def fused(function, *tensors, options=ON):
    """What the rule says of a function of tensors."""
    return fuse(traced(function, tensors).graph, Context(options))


def pair(dtype=torch.bfloat16, shape=(7, 37)):
    source = torch.Generator().manual_seed(3)
    return tuple(torch.randn(shape, generator=source).to(dtype) for _ in range(2))


def test_it_is_off_unless_asked_for():
    assert not fused(scaled, *pair(), options=Options()).fired
    assert fused(scaled, *pair(), options=Options(rules="+muls_add")).fired == {"muls_add": 1}


@pytest.mark.parametrize(
    ("function", "tensors", "why"),
    [
        (lambda x, y: x * 0.1 + y, pair(), "0.1 is no number of torch.bfloat16"),
        (lambda x, y: (p := x * FACTOR) + y + p, pair(), "2 users"),
        (scaled, (pair()[0], pair()[1][:1]), "the leading sizes of y are (1,), others are (7,)"),
        (scaled, (pair()[0], pair()[1].float()), "x is bfloat16 but y is float32"),
    ],
)
def test_it_stays_with_the_reason(function, tensors, why):
    report = fused(function, *tensors)
    assert not report.fired
    assert any(why in miss.reason for miss in report.misses), [m.reason for m in report.misses]


def test_a_row_that_is_added_to_all_stays():
    assert not fused(scaled, pair()[0], pair()[1][0]).fired


def test_a_factor_that_only_float32_holds_is_taken_there():
    assert fused(lambda x, y: x * 0.1 + y, *pair(torch.float32)).fired == {"muls_add": 1}


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_rounds_once_where_two_operators_round_twice(dtype):
    x, y = pair(dtype, (64, 4101))
    exact = y.double() + FACTOR * x.double()
    unit = torch.finfo(dtype).eps * torch.exp2(torch.frexp(exact).exponent.double() - 1)
    slack = ROUNDED_IN_FLOAT32 * (y.double().abs() + FACTOR * x.double().abs())
    once, twice = torch.add(y, x, alpha=FACTOR), scaled(x, y)
    assert ((once.double() - exact).abs() <= unit / 2 + slack).all()
    assert not ((twice.double() - exact).abs() <= unit / 2 + slack).all() or dtype == torch.float32
