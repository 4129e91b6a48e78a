"""How far a result is from an exact one, in the units that bounds are stated in.

References are float64 and written from the formula, not from the code under test. A bound of
0.5 means correctly rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ulp_distance(actual: Tensor, reference64: Tensor) -> float:
    """Largest distance in units in the last place of the dtype of `actual`, taken at the reference.

    Equal infinities and NaN against NaN are at distance 0; one of them alone is infinitely far.
    """
    assert reference64.dtype == torch.float64, reference64.dtype
    assert actual.shape == reference64.shape, (actual.shape, reference64.shape)
    if actual.numel() == 0:
        return 0.0
    kind = torch.finfo(actual.dtype)
    exponent = torch.frexp(reference64.abs().clamp(min=kind.smallest_normal)).exponent - 1
    unit = torch.ldexp(torch.full_like(reference64, kind.eps), exponent)
    distance = (actual.double() - reference64).abs() / unit
    same = (actual.double() == reference64) | (actual.isnan() & reference64.isnan())
    return float(torch.where(same, 0.0, torch.nan_to_num(distance, nan=torch.inf)).max())


def lsb_distance(actual: Tensor, reference64: Tensor) -> float:
    """Largest distance of integers from the exact value before rounding, clamped to the dtype."""
    assert reference64.dtype == torch.float64, reference64.dtype
    assert actual.shape == reference64.shape, (actual.shape, reference64.shape)
    if actual.numel() == 0:
        return 0.0
    kind = torch.iinfo(actual.dtype)
    return float((actual.double() - reference64.clamp(kind.min, kind.max)).abs().max())
