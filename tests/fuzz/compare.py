"""Whether a compiled program can be told from the one that it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.observe import Observation, Seen

FACTOR = 6.0
"""The compiled program may be so many times as far from float64 as eager or noise is."""
UNITS = 16.0
"""And so many units in the last place of the largest value further."""


@dataclass(frozen=True)
class Difference:
    """One thing that differs."""

    call: int
    name: str
    what: str
    detail: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes two differences the same fault of the same program."""
        return self.name.split()[0], self.what

    def __str__(self) -> str:
        return f"observation {self.call}, {self.name}: {self.what}: {self.detail}"


def differences(
    dtype: torch.dtype,
    expected: Sequence[Observation],
    found: Sequence[Observation],
    exact: Sequence[Observation],
    noisy: Sequence[Sequence[Observation]],
) -> list[Difference]:
    """Everything that differs between eager and compiled."""
    result = []
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        if one.keys() != other.keys():
            names = sorted(one.keys() ^ other.keys())
            result.append(Difference(index, names[0], "names", f"{names}"))
        for name in one.keys() & other.keys():
            reference = exact[index][name].value
            moved = [observations[index][name].value for observations in noisy]
            for what, detail in between(one[name], other[name], reference, moved, dtype):
                result.append(Difference(index, name, what, detail))
    return sorted(result, key=lambda one: (one.call, one.name))


def between(
    one: Seen, other: Seen, reference: Any, moved: Sequence[Any], dtype: torch.dtype
) -> list[tuple[str, str]]:
    """What differs in one thing, and how."""
    found = []
    if one.layout != other.layout:
        found.append(("layout", f"{other.layout} for eager's {one.layout}"))
    for what in ("sharing", "same"):
        left, right = getattr(one, what), getattr(other, what)
        if left != right:
            found.append((what, f"{sorted(right)} for eager's {sorted(left)}"))
    reason = values(one.value, other.value, reference, moved, dtype)
    return [*found, ("value", reason)] if reason else found


def values(one: Any, other: Any, reference: Any, moved: Sequence[Any], dtype: torch.dtype) -> str:
    """How two values differ; empty where they do not."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return "" if type(one) is type(other) and one == other else f"{other!r} for {one!r}"
    if one.shape != other.shape or one.numel() == 0:
        return "" if one.shape == other.shape else "shape"
    if not one.is_floating_point():
        step = 1 if one.dtype == torch.int8 and bounded(reference, moved) else 0
        apart = (one.to(torch.int64) - other.to(torch.int64)).abs()
        most = max(step, *(2 * gap(reference, m) for m in moved)) if step else 0
        return f"{int(apart.max())} integers apart" if int(apart.max()) > most else ""
    finite = one.isfinite()
    if not torch.equal(finite, other.isfinite()):
        count = int((finite != other.isfinite()).sum())
        return f"{count} of {one.numel()} elements are finite in one only"
    if not torch.equal(one.nan_to_num(9.0)[~finite], other.nan_to_num(9.0)[~finite]):
        return "NaN or another infinity for an infinity"
    apart = distance(one, other)
    allowed = FACTOR * max(distance(one, reference), *(distance(reference, m) for m in moved))
    unit = torch.finfo(one.dtype if one.dtype in (torch.float16, torch.bfloat16) else dtype).eps
    allowed += UNITS * unit * float(torch.where(finite, one.double().abs(), 0).max())
    allowed += torch.finfo(one.dtype).smallest_normal
    if apart <= allowed:
        return ""
    return f"{apart:.3g} apart where {allowed:.3g} is allowed"


def bounded(reference: Any, moved: Sequence[Any]) -> bool:
    """Whether int8 values are results of a rounding: noise moves them."""
    return any(gap(reference, one) > 0 for one in moved)


def gap(one: Tensor, other: Tensor) -> int:
    """The largest distance of two integer tensors."""
    if one.shape != other.shape or one.numel() == 0:
        return 0
    return int((one.to(torch.int64) - other.to(torch.int64)).abs().max())


def distance(one: Tensor, other: Any) -> float:
    """The largest distance where both are finite; 0 where shapes differ."""
    if not isinstance(other, Tensor) or one.shape != other.shape:
        return 0.0
    apart = (one.double() - other.double()).abs()
    return float(torch.where(apart.isfinite(), apart, 0.0).max())
