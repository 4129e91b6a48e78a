"""In what words an operator says how far its reference may be from float64.

The float64 value is computed from the formula on the same inputs. ULP are units in the last place
of the result's dtype, taken at the float64 value: 0.5 is correctly rounded. LSB are steps of an
integer result, from the float64 value before it is rounded: 0.5 is the nearest integer. Scales that
an operator returns are float32 whatever its inputs are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

ULP, LSB = "ULP", "LSB"
FLOAT16, BFLOAT16, FLOAT32 = torch.float16, torch.bfloat16, torch.float32
ONE_ROUNDING = 0.51
"""Half a unit, and what float32 inside adds to it."""
TWO_ROUNDINGS = 1.51
"""Half a unit of `x * rstd`, up to doubled by the product with gamma, and half a unit of that."""
SINGLE = 6.0
"""The mean, the root and two products, or an exponential and a quotient, all in float32."""
NEAREST, NEAREST_BEHIND = 0.5001, 0.501
"""The nearest integer, and what float32 adds: of a product alone, or behind a norm or a gate."""
FLOAT16_ROUNDINGS = 3
"""Roundings to float16 between a norm and its quantize on float16 inputs; bfloat16 has none."""
FLOAT16_UNIT = 2.0**-11
"""Half a unit in the last place of float16, relative."""
DYNAMIC_ERROR = 2.0**-20
"""float32's relative error of a norm's row, before its largest value becomes the scale."""
ROTATION_ERROR = 2.0**-20
"""float32's error of the two products of a rotation, which may cancel; of inputs up to 8."""


@dataclass(frozen=True)
class Bound:
    """The largest error of one result of an operator."""

    result: str
    """Its name in the operator's documentation."""
    unit: str
    largest: Mapping[torch.dtype, float]
    """Dtype of the floating inputs, or of the result where all inputs are integers -> bound."""
    besides: str = ""
    """What comes on top for some inputs."""


def halves(number: float, single: float | None = None) -> Mapping[torch.dtype, float]:
    """One bound for both half precisions, and another for float32 where the operator takes it."""
    found = {FLOAT16: number, BFLOAT16: number}
    return found if single is None else {**found, FLOAT32: single}


SUM = Bound("x1 + x2", ULP, halves(0.5, 0.5))
HALF_SUM = Bound("x1 + x2", ULP, halves(0.5))
GAINED = Bound("y", ULP, halves(TWO_ROUNDINGS, SINGLE))
RSTD = Bound("rstd", ULP, halves(SINGLE, SINGLE))
BEHIND_NORM = (
    f"float16: {FLOAT16_ROUNDINGS} roundings to float16 of the value before the quantize, in LSB"
)
BEHIND_SUM = f"{DYNAMIC_ERROR:.2g} of the row's largest value, by which its scale moves"
QUANTIZED = Bound("y", LSB, halves(NEAREST_BEHIND), BEHIND_NORM)
ROTATED = halves(0.5, 0.5)
CANCELS = f"{ROTATION_ERROR:.2g} absolute, where the two products cancel"
PARTIALS = "2^-8 of the sum of magnitudes for each rank, whose partial sum is rounded to bfloat16"
