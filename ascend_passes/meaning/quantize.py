"""Quantizing rows to int8 by meaning: an affine map, one rounding and one clamp.

A piece with one rounding, in float64:

* without its rounding and clamps it is `x * a + b`. The factor a is a product of powers of the
  tensors that the piece reads, and b another of them or a number: a stored scale and zero point.
  Or a is 127 over the largest magnitude of each row: a dynamic scale;
* with them it is the rounded and clamped map, at random rows and far outside of int8;
* its result is that integer, in any dtype, or what the integer stands for: the row read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import plain_size, same_size, value
from ascend_passes.meaning.answer import Answer, NotThat
from ascend_passes.meaning.cone import (
    Cone,
    ancestors,
    calls_on_rows,
    cone_of,
    descendants,
    fake_tensor,
    is_widening,
)
from ascend_passes.meaning.family import (
    Place,
    Recognition,
    Recognizer,
    made_of,
    random_rows,
    random_scales,
)
from ascend_passes.meaning.lift import WidePiece
from ascend_passes.meaning.looks import looks_like_quantize
from ascend_passes.meaning.rounded import HIGHEST, LOWEST, STEPS, Rounded
from ascend_passes.meaning.row_scale import dynamic_scale
from ascend_passes.meaning.stored_scale import static_scale
from ascend_passes.meaning.vocabulary import (
    CASTS,
    CHOICES,
    LAYOUT,
    MAKES,
    PIECEWISE,
    REDUCTIONS,
    ROUNDINGS,
)

aten = torch.ops.aten
ARITHMETIC = frozenset(
    {
        *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default),
        *(aten.reciprocal.default, aten.rsub.Scalar, aten.add.Scalar, aten.mul.Scalar),
        *(aten.div.Scalar, aten.sub.Scalar, aten.pow.Tensor_Scalar),
    }
)
ALLOWED_HERE = (
    ARITHMETIC
    | ROUNDINGS
    | CASTS
    | LAYOUT
    | MAKES
    | PIECEWISE
    | CHOICES
    | (REDUCTIONS - {aten.mm.default, aten.bmm.default, aten.addmm.default, aten._int_mm.default})
)
REACH = BEFORE, BEHIND = 10, 8


def quantize_places(anchor: fx.Node) -> Iterator[Place]:
    """Values of as many elements behind a rounding, with the rows in front of it, the farthest
    first: nearer ones are scaled already."""
    fake = fake_tensor(anchor)
    if fake is None or not fake.dim():
        return
    before = [node for node in ancestors(anchor, BEFORE, ALLOWED_HERE) if may_be_rows(node, fake)]
    for out in (*descendants(anchor, BEHIND, ALLOWED_HERE), anchor):
        made = fake_tensor(out)
        if made is None or out.target in LAYOUT or is_widening(out):
            continue
        if same_size(made.numel(), fake.numel()):
            yield from ((out, (x,)) for x in reversed(before))


def may_be_rows(node: fx.Node, rounded: Tensor) -> bool:
    """Whether a node holds floating rows of as many elements as are rounded."""
    fake = fake_tensor(node)
    if fake is None or not fake.dim() or not fake.dtype.is_floating_point:
        return False
    return plain_size(fake.shape[-1]) is not None and same_size(fake.numel(), rounded.numel())


def quantize_piece(place: Place) -> Cone | None:
    """The piece at a place, if it rounds once and reads nothing larger than a row; values inside
    that others want, such as a dynamic scale, are results.

    What bounds a stored scale, or takes its magnitude, stays outside: it is another function for
    some scales, and the piece reads its result.
    """
    cone = cone_of(*place, ALLOWED_HERE, lambda node: node.target not in PIECEWISE | CHOICES)
    if cone is None:
        return None
    count, width = value(cone.sources[0]).numel(), plain_size(value(cone.sources[0]).shape[-1])
    rounded = [node for node in cone.own if node.target in ROUNDINGS]
    if len(rounded) != 1 or not all(size_in(leaf, (1, width)) for leaf in cone.leaves):
        return None
    if calls_on_rows(cone, CHOICES) or any(asks_for_another(node) for node in cone.own):
        return None  # no probe meets the elements, or the scale, that have another value
    readers = (user for user in cone.sources[0].users if user in cone.own)
    if all(user.target in LAYOUT for user in readers):
        return None  # what they give are the rows
    wanted = (
        node
        for node in sorted(cone.own)
        if node is not cone.out
        and fake_tensor(node) is not None
        and not same_size(value(node).numel(), count)
        and any(user not in cone.own for user in node.users)
    )
    return replace(cone, others=tuple(wanted))


def asks_for_another(node: fx.Node) -> bool:
    """Whether a node looks for another number than zero."""
    return node.target is aten.eq.Scalar and bool(node.args[1] != 0)


def size_in(leaf: fx.Node, sizes: tuple[int | None, ...]) -> bool:
    """Whether a leaf holds one of these numbers of elements."""
    fake = fake_tensor(leaf)
    if fake is None or fake.dtype.is_complex:
        return False
    return all(plain_size(size) is not None for size in fake.shape) and int(fake.numel()) in sizes


def solve_quantize(lifted: WidePiece) -> Answer | NotThat:
    """The quantize that a piece is."""
    rounded = Rounded.of(lifted)
    return dynamic_scale(rounded) or static_scale(rounded)


def spelled_static(x: Tensor, scale: Tensor) -> Tensor:
    """A row quantized with a stored scale."""
    return (x / scale).round().clamp(LOWEST, HIGHEST).to(torch.int8)


def spelled_dynamic(x: Tensor) -> tuple[Tensor, Tensor]:
    """A row quantized by its own largest magnitude, and its scale."""
    scale = x.float().abs().amax(-1, keepdim=True) / STEPS
    return (x / scale).round().clamp(LOWEST, HIGHEST).to(torch.int8), scale


RULES: Mapping[str, Recognition] = MappingProxyType(
    {
        "quantize_static": Recognition(
            "A row quantized with a stored scale becomes `npu_quantize`.",
            spelled_static,
            made_of(random_rows(6, 64), random_scales(1)),
            tolerance=1.0,
            hides_nan=True,
        ),
        "quantize_dynamic": Recognition(
            "A row quantized by its own largest magnitude becomes `npu_dynamic_quant`.",
            spelled_dynamic,
            made_of(random_rows(6, 64)),
            tolerance=1.0,
        ),
    }
)
QUANTIZES = Recognizer(
    "quantize",
    RULES,
    ROUNDINGS,
    quantize_places,
    quantize_piece,
    solve_quantize,
    ALLOWED_HERE,
    REACH,
    looks_like_quantize,
)
