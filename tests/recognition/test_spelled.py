"""Spellings as people write them become their operators; near misses stay, and are told."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import ascend_passes
from ascend_passes.meaning.recognize import recognitions
from tests.graphs import traced
from tests.recognition.harness import assert_right, assert_steps, recognized, results_of
from tests.recognition.spelled import (
    gates,
    near_misses,
    norms,
    products,
    quantizes,
    rotations,
    sums,
)
from tests.recognition.spelled.norms import H
from tests.recognition.spelled.table import normal
from tests.soundness.today import seed_of_the_day

RIGHT = {
    "norms": norms.RIGHT,
    "gates": gates.RIGHT,
    "rotations": rotations.RIGHT,
    "sums": sums.RIGHT,
    "quantizes": quantizes.RIGHT,
    "products": products.RIGHT,
}
WRONG = {
    "norms": near_misses.NORMS,
    "gates": near_misses.GATES,
    "rotations": near_misses.ROTATIONS,
    "quantizes": near_misses.QUANTIZES,
    "products": near_misses.PRODUCTS,
}
RULES = {*recognitions(), "add_rms_norm", "add_gemma_rms_norm"} - {"add"}
"""What is counted here: not the sum that a wide one becomes, and no passes."""
MANY, OTHER, ONE = 8, 9, 1
"""Tokens."""
THROUGH_THE_BACKEND = 12
"""Spellings a day, half a second each."""


def ways(name, case):
    """(dtype, tokens, dynamic): the plainest way, and for half of the names of a day another."""
    source = random.Random(f"{seed_of_the_day()} {name}")
    every = [
        (kind, tokens, dynamic)
        for kind in case.kinds
        for tokens, dynamic in ((MANY, False), (ONE, False), (MANY, True))
        if case.dynamic or not dynamic
    ]
    return (every[0], source.choice(every[1:]))[: source.choice((1, 2))]


def names_of(tables):
    """(family, name) of every spelling; what should become an operator and does not is expected to
    fail."""
    for family, table in tables.items():
        for name, case in table.items():
            marks = [pytest.mark.xfail(strict=True, reason=case.left)] if case.left else []
            yield pytest.param(family, name, marks=marks, id=f"{family}: {name}")


def found_in(family, case, kind, tokens, dynamic):
    """The graph of a spelling in one way, the report, and its inputs."""
    inputs = case.inputs(kind, tokens)
    others = case.inputs(kind, OTHER) if dynamic else ()
    if family != "sums":
        return *recognized(case.function, inputs, dynamic, others), inputs
    gm = traced(case.function, inputs, dynamic, others=others)
    return gm, ascend_passes.optimize(gm, inputs), inputs


@pytest.mark.parametrize(("family", "name"), [*names_of(RIGHT)])
def test_a_right_spelling_becomes_its_operator(family, name):
    case = RIGHT[family][name]
    for kind, tokens, dynamic in ways(name, case):
        gm, report, inputs = found_in(family, case, kind, tokens, dynamic)
        wanted = case.of_one if tokens == ONE and case.of_one else case.fires
        fired = {rule: count for rule, count in report.fired.items() if rule in RULES}
        assert fired == wanted, (kind, tokens, dynamic, str(report))
        assert not report.misses or family == "sums", report.misses  # what fired is not left
        assert_right(gm, case.function, inputs, case.bound)


@pytest.mark.parametrize(("family", "name"), [*names_of(WRONG)])
def test_a_near_miss_stays_and_is_told(family, name):
    case = WRONG[family][name]
    for kind, tokens, dynamic in ways(name, case):
        gm, report, inputs = found_in(family, case, kind, tokens, dynamic)
        assert report.fired.keys() <= case.inside, (kind, tokens, dynamic, str(report))
        assert_as_eager(gm, case, inputs)
        told = [miss.reason for miss in report.misses]
        assert told or report.fired or case.quiet, (kind, tokens, dynamic)


@pytest.mark.parametrize("tokens", [ONE, MANY])
@pytest.mark.parametrize(
    "name", ["by the largest without its sign", "by all but one column", "by the least"]
)
def test_a_scale_of_another_number_than_the_largest_magnitude_stays(name, tokens):
    """Which is the largest number of a row, or lies in the columns that count, by chance."""
    case = near_misses.QUANTIZES[name]
    for seed in range(4):
        x = normal(tokens, H, kind=torch.bfloat16, seed=seed)
        x[:, 0] = -9 if name != "by the least" else 9
        gm, report = recognized(case.function, (x, case.inputs(x.dtype, tokens)[1]))
        assert "quantize_dynamic" not in report.fired, str(report)
        assert_as_eager(gm, case, (x, torch.ones(())))


def assert_as_eager(gm, case, inputs):
    """What is left alone is the same, and what is right inside is near: a step of integers, which
    the spelling rounds in its own dtype."""
    (mine,) = results_of(gm, inputs)
    if mine.is_floating_point():
        assert_right(gm, case.function, inputs, case.bound)
    else:
        assert_steps(gm, case.function, inputs)


class Held(nn.Module):
    """A spelling as a module, whose last inputs are buffers."""

    def __init__(self, function, inputs, kept):
        super().__init__()
        self.function, self.kept = function, kept
        for index in range(kept):
            self.register_buffer(f"held{index}", inputs[len(inputs) - kept + index])

    def forward(self, *given):
        return self.function(*given, *(getattr(self, f"held{i}") for i in range(self.kept)))


def todays():
    """The spellings that go through the backend today."""
    whole = [(family, name) for family, table in RIGHT.items() for name in table]
    whole = [(family, name) for family, name in whole if not RIGHT[family][name].left]
    return random.Random(seed_of_the_day()).sample(whole, THROUGH_THE_BACKEND)


@pytest.mark.parametrize(("family", "name"), todays())
@torch.no_grad()
def test_a_right_spelling_through_the_backend(family, name):
    case, source = RIGHT[family][name], random.Random(f"{seed_of_the_day()} {name}")
    kind, dynamic = source.choice(case.kinds), case.dynamic and source.choice((False, True))
    inputs = case.inputs(kind, MANY)
    model = Held(case.function, inputs, case.kept)
    torch._dynamo.reset()
    ascend_passes.reset()
    compiled = torch.compile(model, backend="ascend_dense", dynamic=dynamic)

    def run(*given):
        return compiled(*given[: len(given) - case.kept])

    assert_right(run, case.function, inputs, case.bound)
    (report,) = ascend_passes.reports()
    assert not report.errors
    assert {rule: report.fired.get(rule) for rule in case.fires} == case.fires, str(report)
