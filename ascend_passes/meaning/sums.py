"""Sums of two values by meaning: computed in a wider dtype and rounded, stacked and reduced,
broadcast, or minus a negative; they become the one addition that norms fuse with.

A piece of two values is asked for its result on random numbers, in float64. A sum of two numbers of
half precision in float32, rounded once, is the addition in half precision bit for bit.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import same_sizes
from ascend_passes.meaning.answer import Answer, NotThat, Slot
from ascend_passes.meaning.cone import Cone, ancestors, cone_of, descendants, fake_tensor
from ascend_passes.meaning.family import (
    Place,
    Recognition,
    Recognizer,
    agrees,
    made_of,
    random_rows,
)
from ascend_passes.meaning.lift import WidePiece
from ascend_passes.meaning.vocabulary import CASTS, LAYOUT

aten = torch.ops.aten
LISTS = aten._foreach_add.List
ANCHORS = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.sum.dim_IntList, LISTS})
ALLOWED_HERE = ANCHORS | CASTS | LAYOUT | {aten.stack.default, aten.cat.default, aten.neg.default}
VIEWS = LAYOUT - {operator.getitem}
"""No sum ends in one; a list's does in the item that is taken."""
REACH = BEFORE, BEHIND = 4, 2


def sum_places(anchor: fx.Node) -> Iterator[Place]:
    """A sum, or what it is rounded to, of two values of its own size and dtype."""
    for out in (*descendants(anchor, BEHIND, ALLOWED_HERE), anchor):
        fake = fake_tensor(out)
        if fake is None or not fake.dtype.is_floating_point or out.target in VIEWS:
            continue
        terms = [node for node in ancestors(anchor, BEFORE, ALLOWED_HERE) if is_alike(node, fake)]
        yield from ((out, pair) for pair in itertools.combinations(terms, 2))


def is_alike(node: fx.Node, result: Tensor) -> bool:
    """Whether a node holds a tensor like the result."""
    fake = fake_tensor(node)
    return fake is not None and fake.dtype == result.dtype and same_sizes(fake.shape, result.shape)


def sum_piece(place: Place) -> Cone | None:
    """The piece between two values and their sum; None for one that is an addition already."""
    cone = cone_of(*place, ALLOWED_HERE)
    if cone is None or cone.leaves or (cone.own == {cone.out} and not is_scaled(cone.out)):
        return None
    return cone


def is_scaled(node: fx.Node) -> bool:
    """Whether a node adds or subtracts a multiple of its second value."""
    return len(node.args) > 2 or "alpha" in node.kwargs


def solve_sum(lifted: WidePiece) -> Answer | NotThat:
    """Whether a piece is the sum of its two values."""
    source = torch.Generator().manual_seed(9)
    a, b = (
        torch.randn(lifted.shape(node), generator=source, dtype=torch.float64)
        for node in lifted.cone.sources
    )
    found = lifted.at(dict(zip(lifted.cone.sources, (a, b), strict=True)))
    if not agrees(found, a + b):
        return NotThat("it is no sum of two values")
    return Answer("add", torch.add, {"input": Slot(0), "other": Slot(1)})


RULES: Mapping[str, Recognition] = MappingProxyType(
    {
        "add": Recognition(
            "A sum that is computed in float32 and rounded, or stacked and reduced, becomes one "
            "addition.",
            lambda x, residual: (x.float() + residual.float()).to(x.dtype),
            made_of(random_rows(6, 64), random_rows(6, 64)),
            tolerance=1.0,
        ),
    }
)
SUMS = Recognizer(
    "add",
    RULES,
    ANCHORS,
    sum_places,
    sum_piece,
    solve_sum,
    ALLOWED_HERE,
    REACH,
)
