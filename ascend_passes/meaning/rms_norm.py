"""RMSNorm by meaning: rows over their root mean square, times a gain.

Asked of a piece F with rows x, in float64:

* rows of magnitude 1e15, beside which no epsilon counts, give the gain G = F(x) rms(x) / x, which
  must be one number for each column and affine in the one parameter of the piece;
* rows of magnitude 1e-20 give epsilon = (x G / F(x))**2 - rms(x)**2;
* at 13 magnitudes between, at epsilon's own and on both sides of every number that a clamp names,
  F(x) is x G / sqrt(rms(x)**2 + epsilon) within 1e-7.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from types import MappingProxyType

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import plain_size, same_size, value
from ascend_passes.meaning.cone import (
    Cone,
    ancestors,
    calls_on_rows,
    cone_of,
    descendants,
    fake_tensor,
    holds_tensor,
    is_widening,
    makes_itself,
)
from ascend_passes.meaning.family import (
    Place,
    Recognition,
    Recognizer,
    made_of,
    random_rows,
    random_scales,
)
from ascend_passes.meaning.looks import looks_like_norm
from ascend_passes.meaning.norm_probe import solve_norm
from ascend_passes.meaning.vocabulary import ALLOWED, CASTS, CLAMPS, LAYOUT, MOVES, REDUCTIONS

aten = torch.ops.aten
MATRICES = frozenset({aten.mm.default, aten.addmm.default, aten.mv.default, aten._int_mm.default})
ANCHORS = REDUCTIONS - MATRICES
ALLOWED_HERE = ALLOWED - MATRICES
DIVISIONS = frozenset({aten.div.Tensor, aten.div.Scalar})
AFFINE = (
    CASTS
    | LAYOUT
    | {
        *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar),
        *(aten.rsub.Tensor, aten.mul.Tensor, aten.mul.Scalar, aten.neg.default),
    }
)
"""Of one tensor and a number."""
REACH = BEFORE, BEHIND = 5, 14
"""Operators between the rows and the reduction, and between that and the result."""


def norm_places(anchor: fx.Node) -> Iterator[Place]:
    """Values of the rows' size behind a reduction, with the rows in front of it."""
    fake = fake_tensor(anchor.all_input_nodes[0]) if anchor.all_input_nodes else None
    if fake is None or not fake.dim() or not fake.dtype.is_floating_point:
        return
    before = ancestors(anchor, BEFORE, ALLOWED_HERE)
    rows = [node for node in before if are_rows(node) and is_reduced(node, anchor)]
    if not rows:
        return
    count = value(rows[0]).numel()
    for out in descendants(anchor, BEHIND, ALLOWED_HERE, before, count):
        if is_widening(out) or (out.target in LAYOUT and out.target is not operator.getitem):
            continue
        yield from ((out, (x,)) for x in rows if x < out and as_many(x, out))


def is_reduced(node: fx.Node, anchor: fx.Node) -> bool:
    """Whether a reduction gives one number for each row of a node, or is the norm itself."""
    fake, made = fake_tensor(node), fake_tensor(anchor)
    if made is None or fake is None:
        return anchor.target is aten._fused_rms_norm.default
    return same_size(made.numel() * fake.shape[-1], fake.numel())


def are_rows(node: fx.Node) -> bool:
    """Whether a node holds floating rows of two elements or more."""
    fake = fake_tensor(node)
    if fake is None or fake.dim() < 1 or not fake.dtype.is_floating_point:
        return False
    width = plain_size(fake.shape[-1])
    return width is not None and width > 1


def as_many(one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes hold as many floating elements."""
    a, b = fake_tensor(one), fake_tensor(other)
    if a is None or b is None or not b.dim() or not b.dtype.is_floating_point:
        return False
    return same_size(a.numel(), b.numel())


def norm_piece(place: Place) -> Cone | None:
    """The piece at a place, if it can be a norm. What makes its gain of a parameter belongs to it
    where that is affine; any other gain is computed before."""
    cone = cone_of(*place, ALLOWED_HERE, is_affine)
    return cone if cone is not None and may_be_norm(cone) else None


def is_affine(node: fx.Node) -> bool:
    """Whether a node's value is affine in the one tensor that it reads, or made of numbers."""
    read = [one for one in node.all_input_nodes if holds_tensor(one) and not makes_itself(one)]
    uses = sum(one in read for one in (*node.args, *node.kwargs.values()))
    divides = node.target in DIVISIONS and node.args[0] in read
    return not read or (uses == 1 and (divides or node.target in AFFINE)) or node.target in MOVES


def may_be_norm(cone: Cone) -> bool:
    """Whether a piece reduces, computes no integers, reads nothing larger than a gain, holds no
    value in a narrower range than its rows and its result, and bounds nothing as large as they: a
    bound that rows reach by their gain is met by no probe."""
    if calls_on_rows(cone, CLAMPS):
        return False
    width = plain_size(value(cone.sources[0]).shape[-1])
    own = [fake_tensor(node) for node in cone.nodes]
    if not any(node.target in REDUCTIONS for node in cone.own):
        return False
    kinds = [fake.dtype for fake in own if fake is not None]
    if not all(kind.is_floating_point for kind in kinds):
        return False
    if not all(gain_size(leaf) in (1, width) for leaf in cone.leaves):
        return False
    ends = (torch.finfo(value(node).dtype).max for node in (cone.sources[0], cone.out))
    return min(torch.finfo(kind).max for kind in kinds) >= min(ends)


def gain_size(leaf: fx.Node) -> int:
    """The number of elements, -1 where it is a symbol; a gain has one for each column."""
    fake = fake_tensor(leaf)
    sizes = [plain_size(size) for size in fake.shape] if fake is not None else [None]
    if None in sizes:
        return -1
    count = math.prod(size or 0 for size in sizes)
    return count if count == 1 or sizes[-1] == count else -1


def spelled_norm(x: Tensor, gamma: Tensor | None = None, one: float = 0.0) -> Tensor:
    """RMSNorm as models write it, with the gain `one + gamma`."""
    wide = x.float()
    values = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (values if gamma is None else values * (one + gamma.float())).to(x.dtype)


ROWS, GAIN = random_rows(6, 64), random_scales(64)
RULES = MappingProxyType(
    {
        "rms_norm": Recognition(
            "RMSNorm becomes `npu_rms_norm`.", spelled_norm, made_of(ROWS, GAIN)
        ),
        "rms_norm_without_gain": Recognition(
            "RMSNorm without a gain becomes `npu_rms_norm` with a gain of ones.",
            spelled_norm,
            made_of(ROWS),
        ),
        "gemma_rms_norm": Recognition(
            "RMSNorm scaled by one plus a weight becomes `npu_gemma_rms_norm`.",
            lambda x, gamma: spelled_norm(x, gamma, 1.0),
            made_of(ROWS, GAIN),
        ),
    }
)
NORMS = Recognizer(
    "rms_norm",
    RULES,
    ANCHORS,
    norm_places,
    norm_piece,
    solve_norm,
    ALLOWED_HERE,
    REACH,
    looks_like_norm,
    rounds_sums=True,
    reads_numbers=True,
)
