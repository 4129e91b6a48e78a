"""Rotary embedding by meaning: `x * cos + rotated(x) * sin`, with tables of any form.

A piece F of heads x and tables, in float64:

* it is linear in x: F(a + b) is F(a) + F(b), and F(0) is zero;
* ones in the first column of each pair, and then in the second, show the cosines and sines that
  F multiplies by, and F is the operator's formula with them on random x;
* which element of which table each of them is, and with which factor, `tables` finds out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.ir.graph import plain_size, same_size, value
from ascend_passes.meaning.answer import Answer, NotThat, Slot
from ascend_passes.meaning.cone import (
    Cone,
    ancestors,
    cone_of,
    descendants,
    fake_tensor,
    is_widening,
)
from ascend_passes.meaning.family import (
    Place,
    Recognition,
    Recognizer,
    agrees,
    made_of,
    random_rows,
)
from ascend_passes.meaning.lift import WidePiece
from ascend_passes.meaning.looks import looks_like_rotation
from ascend_passes.meaning.tables import Table, arranged, table_behind
from ascend_passes.meaning.vocabulary import CASTS, LAYOUT, MAKES, MOVES, SMOOTH_PIECES
from ascend_passes.npu.rotary import HALF, INTERLEAVE, rotated

aten = torch.ops.aten
ANCHORS = frozenset(
    {
        *(aten.cat.default, aten.stack.default, aten.slice_scatter.default, aten.roll.default),
        *(aten.select_scatter.default, aten.flip.default, aten.view_as_real.default),
        *(aten.copy.default, aten.index_select.default),
    }
)
"""Operators by which the columns of a pair change places."""
PRODUCTS = frozenset({aten.mul.Tensor, aten.addcmul.default})
ENDS = LAYOUT - {
    *(aten.view.default, aten._unsafe_view.default, aten.reshape.default),
    *(aten.view_as_real.default, aten.clone.default),
}
"""Operators that a result does not end in: what they give is a view of a result."""
ALLOWED_HERE = SMOOTH_PIECES | MOVES
REACH = BEFORE, BEHIND = 14, 9
FEWEST_DIMS, OPERATOR_DIMS = 2, 4


def rotation_places(anchor: fx.Node) -> Iterator[Place]:
    """Values behind an exchange of columns, with the heads in front of it."""
    before = [node for node in ancestors(anchor, BEFORE, ALLOWED_HERE) if are_heads(node)]
    for out in (*descendants(anchor, BEHIND, ALLOWED_HERE), anchor):
        if not are_heads(out) or out.target in ENDS or is_widening(out):
            continue
        count = value(out).numel()
        yield from ((out, (x,)) for x in before if same_size(value(x).numel(), count))


def are_heads(node: fx.Node) -> bool:
    """Whether a node holds floating vectors of pairs."""
    fake = fake_tensor(node)
    if fake is None or fake.dim() < FEWEST_DIMS or not fake.dtype.is_floating_point:
        return False
    width = plain_size(fake.shape[-1])
    return width is not None and width % 2 == 0


def rotation_piece(place: Place) -> Cone | None:
    """The piece at a place, if it multiplies by tables that are no larger than its heads."""
    cone = cone_of(*place, ALLOWED_HERE, moves_or_scales)
    if cone is None or not cone.leaves:
        return None
    targets = {node.target for node in cone.own}
    if not targets & PRODUCTS or not targets & ANCHORS:
        return None
    x = value(cone.sources[0])
    return cone if all(may_be_table(value(leaf), x) for leaf in cone.leaves) else None


def moves_or_scales(node: fx.Node) -> bool:
    """Whether a table is another's elements in other places, by a number or in another dtype."""
    if node.target in PRODUCTS | {aten.div.Tensor}:
        return not isinstance(node.args[1], fx.Node)
    return node.target in CASTS | LAYOUT | MOVES | MAKES | {aten.neg.default, aten.mul.Scalar}


def may_be_table(table: object, x: Tensor) -> bool:
    """Whether a leaf can hold angles of heads x: half as wide as they are, or up to twice."""
    if not isinstance(table, Tensor) or not table.dim():
        return False
    if not (table.dtype.is_floating_point or table.dtype.is_complex):
        return False
    return not same_size(table.numel(), x.numel()) or same_size(table.shape[-1], x.shape[-1])


@dataclass(frozen=True, eq=False)
class Turn:
    """A piece that is asked with one value of each table."""

    lifted: WidePiece
    shape: tuple[int, ...]
    firsts: Tensor
    """Which columns are the first of their pairs."""
    sorted_first: bool = False
    """Whether the piece sorts the columns of its heads before it turns them, as DeepSeek's does:
    pairs in and halves out, or halves in and pairs out. Then x is what it has sorted."""

    def factors(self, tables: Mapping[fx.Node, Tensor]) -> tuple[Tensor, Tensor]:
        """The cosines and sines that the piece multiplies by."""
        ones = torch.ones(self.shape, dtype=torch.float64)
        first = self.of(ones * self.firsts, tables)
        second = self.of(ones * ~self.firsts, tables)
        return torch.where(self.firsts, first, second), torch.where(self.firsts, -second, first)

    def factor(self, index: int, tables: Mapping[fx.Node, Tensor]) -> Tensor:
        """The cosines, 0, or the sines, 1."""
        return self.factors(tables)[index]

    def of(self, x: Tensor, tables: Mapping[fx.Node, Tensor]) -> Tensor:
        """The piece's value, in the shape of x."""
        if self.sorted_first:
            x = paired(x) if bool(self.firsts[: len(self.firsts) // 2].all()) else unpaired(x)
        return self.lifted.at({**tables, self.lifted.cone.sources[0]: x}).reshape(self.shape)


def paired(x: Tensor) -> Tensor:
    """The columns of both halves in turn."""
    return torch.stack(x.chunk(2, -1), -1).flatten(-2)


def unpaired(x: Tensor) -> Tensor:
    """Even columns, then odd ones."""
    return torch.cat((x[..., ::2], x[..., 1::2]), -1)


def solve_rotation(lifted: WidePiece) -> Answer | NotThat:
    """The rotation that a piece is."""
    width = lifted.shape(lifted.cone.sources[0])[-1]
    columns = torch.arange(width)
    firsts = {HALF: columns < width // 2, INTERLEAVE: columns % 2 == 0}
    if not is_linear(lifted):
        return NotThat("it is not linear in the heads")
    for sorted_first, (mode, first) in itertools.product((False, True), firsts.items()):
        turn = Turn(lifted, lifted.shape(lifted.cone.sources[0]), first, sorted_first)
        if is_rotation(turn, mode):
            return rotation_answer(turn, mode)
    return NotThat("it turns no pairs of columns")


def random(shape: tuple[int, ...], kind: torch.dtype, source: torch.Generator) -> Tensor:
    """Random numbers, complex where the dtype is."""
    wide = torch.complex128 if kind.is_complex else torch.float64
    return torch.randn(shape, generator=source, dtype=wide)


def random_tables(lifted: WidePiece, source: torch.Generator) -> dict[fx.Node, Tensor]:
    """Random numbers for all that a piece reads beside its heads."""
    return {leaf: random(lifted.shape(leaf), value(leaf).dtype, source) for leaf in lifted.unknown}


def is_linear(lifted: WidePiece) -> bool:
    """Whether a piece is linear in its heads, and gives as many numbers."""
    source, (x,) = torch.Generator().manual_seed(3), lifted.cone.sources
    tables = random_tables(lifted, source)
    a, b = (random(lifted.shape(x), torch.float64, source) for _ in range(2))
    at_a, at_b, sum_, zero = (lifted.at({**tables, x: given}) for given in (a, b, a + b, 0 * a))
    return not zero.any() and at_a.numel() == a.numel() and agrees(sum_, at_a + at_b)


def is_rotation(turn: Turn, mode: str) -> bool:
    """Whether a piece is the operator's formula with the factors that it shows."""
    source = torch.Generator().manual_seed(4)
    tables = random_tables(turn.lifted, source)
    cos, sin = turn.factors(tables)
    x = random(turn.shape, torch.float64, source)
    return bool(sin.any()) and agrees(turn.of(x, tables), x * cos + rotated(x, mode) * sin)


def rotation_answer(turn: Turn, mode: str) -> Answer | NotThat:
    """The operator with the tables that the piece reads."""
    found: list[Table] = []
    for index in (0, 1):
        table = table_behind(turn.lifted, turn.shape, partial(turn.factor, index))
        if isinstance(table, str):
            return NotThat(f"its {('cosines', 'sines')[index]} {table}", near=True)
        found.append(table)
    slots = {name: Slot(t.leaf, leaf=True) for name, t in zip(("cos", "sin"), found, strict=True)}
    numbers = {"mode": mode, "forms": tuple(found), "sorted_first": turn.sorted_first}
    rule = "rotary_mul" if mode == HALF else "rotary_mul_interleaved"
    inputs = {"x": Slot(0), **slots}
    return Answer(rule, built_rotation, inputs, numbers, tuple(inputs), prepare=with_tables)


def with_tables(x: Tensor, cos: Tensor, sin: Tensor, **numbers: Any) -> dict[str, Tensor]:
    """The heads, and cosines and sines of as many dims, in the dtype of the heads, which the
    operator wants."""
    forms: tuple[Table, Table] = numbers["forms"]
    made = [arranged(t, form, x).to(x.dtype) for t, form in zip((cos, sin), forms, strict=True)]
    if numbers["sorted_first"]:
        x = unpaired(x) if numbers["mode"] == HALF else paired(x)
    return {"x": x, "cos": made[0], "sin": made[1]}


def built_rotation(
    x: Tensor, cos: Tensor, sin: Tensor, *, mode: str, forms: object, sorted_first: bool
) -> Tensor:
    """`npu_rotary_mul` of heads with any dims in front of the last."""
    four = [four_dims(t, x) for t in (x, cos, sin)]
    turned: Tensor = npu.npu_rotary_mul(*four, mode)
    return turned.reshape(x.shape)


def four_dims(tensor: Tensor, x: Tensor) -> Tensor:
    """Heads, or tables that fit them, as the operator takes them."""
    if x.dim() <= OPERATOR_DIMS:
        missing = OPERATOR_DIMS - x.dim()
        return tensor.reshape([*(1,) * missing, *tensor.shape])
    merged = x.dim() - OPERATOR_DIMS + 1
    alike = all(size == 1 for size in tensor.shape[:merged])
    whole = tensor if alike else tensor.expand([*x.shape[:merged], *tensor.shape[merged:]])
    return whole.flatten(0, merged - 1)


def spelled_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rope of a head's halves."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def spelled_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rope of neighbouring columns."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


HEADS = random_rows(2, 5, 4, 64)
RULES: Mapping[str, Recognition] = MappingProxyType(
    {
        "rotary_mul": Recognition(
            "Rotary embedding of a head's halves becomes `npu_rotary_mul`.",
            spelled_halves,
            made_of(HEADS, random_rows(1, 5, 1, 64), random_rows(1, 5, 1, 64)),
            tolerance=4.0,
        ),
        "rotary_mul_interleaved": Recognition(
            "Rotary embedding of neighbouring columns becomes `npu_rotary_mul` on pairs.",
            spelled_pairs,
            made_of(HEADS, random_rows(1, 5, 1, 32), random_rows(1, 5, 1, 32)),
            tolerance=4.0,
        ),
    }
)
ROTATIONS = Recognizer(
    "rotary",
    RULES,
    ANCHORS,
    rotation_places,
    rotation_piece,
    solve_rotation,
    ALLOWED_HERE,
    REACH,
    looks_like_rotation,
)
