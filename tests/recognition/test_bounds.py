"""A bound, or a magnitude, in or around a spelling acts where inputs reach it."""

from __future__ import annotations

import pytest
import torch

from tests.recognition.harness import assert_steps, recognized, results_of
from tests.recognition.spelled.norms import unit
from tests.recognition.spelled.quantizes import narrow
from tests.recognition.spelled.table import BF16, F32, normal

H, ROWS = 64, 5
SCALES = {
    "magnitude": (lambda s: s.abs(), -0.02),
    "root of its square": (lambda s: (s**2) ** 0.5, -0.02),
    "not below zero": (lambda s: s.clamp(min=0.0), -0.02),
    "at least": (lambda s: s.clamp(min=1e-5), 1e-7),
    "at most": (lambda s: s.clamp(max=100.0), 1e3),
    "maximum": (lambda s: torch.maximum(s, torch.full_like(s, 1e-5)), 1e-7),
    "no zero": (lambda s: torch.where(s == 0, 1.0, s), 0.0),
}
"""What is made of a stored scale, and a scale for which it is another."""
NORMS = {
    "magnitude of the gain": (lambda x, g: unit(x) * g.abs(), 1.0),
    "bounded gain": (lambda x, g: unit(x) * g.clamp(max=100.0), 1e3),
    "bounded result": (lambda x, g: (unit(x) * g).clamp(-50.0, 50.0), 1e3),
    "softly bounded result": (lambda x, g: 1e5 * torch.tanh(unit(x) * g / 1e5), 1e5),
    "bounded rows": (lambda x, g: unit((x * 1e4).clamp(-1e4, 1e4)) * g, 1.0),
}
"""Norms, and how large gains are where their bound acts."""


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("width", [1, H])
@pytest.mark.parametrize("name", SCALES)
def test_what_bounds_a_stored_scale_stays_in_front_of_the_quantize(name, width, rows):
    made_of, number = SCALES[name]
    scale = torch.full((width,), number)
    x = normal(rows, H, kind=F32) * (number or 1.0)

    def spelling(x, s):
        return narrow(x / made_of(s))

    gm, _ = recognized(spelling, (x, scale))
    assert_steps(gm, spelling, (x, scale))


@pytest.mark.parametrize("rows", [1, ROWS])
def test_magnitudes_of_one_row_are_its_scales(rows):
    """Of one row each column's largest magnitude is that of its only element."""

    def spelling(x):
        return narrow(x * 127 / x.abs().amax(0, keepdim=True))

    x = normal(rows, H, kind=F32)
    gm, _ = recognized(spelling, (x,))
    assert_steps(gm, spelling, (x,))


@pytest.mark.parametrize("dynamic", [False, True])
def test_rows_that_are_bounded_before_they_are_quantized(dynamic):
    def spelling(x, s):
        bounded = x.clamp(-1e4, 1e4)
        return narrow(bounded / (bounded.abs().amax(-1, keepdim=True) / 127 if dynamic else s))

    given = normal(ROWS, H, kind=BF16) * 1e5, torch.full((1,), 1e3, dtype=BF16)
    gm, report = recognized(spelling, given)
    assert report.fired == {f"quantize_{'dynamic' if dynamic else 'static'}": 1}
    assert_steps(gm, spelling, given)


@pytest.mark.parametrize("number", [0.0, 3.0])
@pytest.mark.parametrize("dynamic", [False, True])
def test_elements_that_are_chosen_by_their_value(dynamic, number):
    def spelling(x, s):
        chosen = torch.where(x == number, 7.0, x)
        return narrow(chosen / (chosen.abs().amax(-1, keepdim=True) / 127 if dynamic else s))

    x = normal(ROWS, H, kind=BF16)
    x[:, 5:9] = number
    given = x, torch.full((1,), 0.02, dtype=BF16)
    gm, _ = recognized(spelling, given)
    assert_steps(gm, spelling, given)


def test_a_scale_that_is_chosen_by_another_number_than_zero():
    def spelling(x):
        largest = x.abs().amax(-1, keepdim=True)
        return narrow(x / (torch.where(largest == 4.0, 8.0, largest) / 127))

    x = normal(ROWS, H, kind=BF16).clamp(-3, 3)
    x[:, 5] = 4.0
    gm, _ = recognized(spelling, (x,))
    assert_steps(gm, spelling, (x,))


@pytest.mark.parametrize("made_of", [torch.abs, lambda s: (s**2) ** 0.5, lambda s: s + 0])
def test_rows_are_smoothed_by_a_tensor_with_its_sign(made_of):
    def spelling(x, s):
        smoothed = x * made_of(s)
        return narrow(smoothed / (smoothed.abs().amax(-1, keepdim=True) / 127))

    given = normal(ROWS, H, kind=BF16), normal(H, kind=BF16, seed=1)
    gm, _ = recognized(spelling, given)
    assert_steps(gm, spelling, given)


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("name", NORMS)
def test_what_bounds_a_norm_stays(name, rows):
    spelling, size = NORMS[name]
    given = normal(rows, H, kind=F32), normal(H, kind=F32) * size
    gm, _ = recognized(spelling, given)
    (mine,), (theirs,) = results_of(gm, given), results_of(spelling, given)
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()
