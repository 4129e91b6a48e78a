"""The zero point of a product's rows, and what is added to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from ascend_passes.meaning.answer import NotThat
from ascend_passes.meaning.family import agrees
from ascend_passes.meaning.summed import Summed


def zero_of(summed: Summed, leaves: Sequence[fx.Node]) -> fx.Node | float | NotThat:
    """The leaf, or the number, that is taken from the rows."""
    point = -summed.point()
    number = float(point.reshape(-1)[0])
    if not agrees(point, torch.full_like(point, number), 1e-7) and point.abs().max() > 1e-7:
        return NotThat("the zero point of its rows is no number", near=True)
    for leaf in leaves:
        held = summed.given[leaf]
        if held.numel() == 1 and math.isclose(float(held), number, rel_tol=1e-7):
            return leaf
    if abs(number) < 1e-7:
        return 0.0
    whole = math.isclose(number, round(number), rel_tol=1e-7)
    return float(round(number)) if whole else NotThat("its zero point is no integer", near=True)


@dataclass(frozen=True)
class Bias:
    """What is added to each row."""

    leaf: fx.Node | None = None
    scaled: bool = False
    """Whether it is scaled as the product is."""


def bias_of(summed: Summed, leaves: Sequence[fx.Node]) -> Bias | NotThat:
    """The bias that a piece adds."""
    added = summed.bias()
    if not leaves:
        return Bias() if not added.any() else NotThat("it adds a number that it names", near=True)
    (leaf, *more) = leaves
    held = summed.given[leaf].reshape(-1)
    if more or held.numel() not in (1, added.shape[-1]):
        return NotThat("it reads something beside scales, a zero point and a bias", near=True)
    if agrees(added, held.expand(added.shape)):
        return Bias(leaf)
    if agrees(added / summed.factor(), held.expand(added.shape)):
        return Bias(leaf, scaled=True)
    return NotThat("its bias is scaled otherwise than the product", near=True)
