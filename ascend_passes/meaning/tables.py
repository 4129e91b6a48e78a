"""Which elements of which table a piece multiplies by, whatever form the table has.

Each element of a table gets a number of its own, so that a factor of the piece shows which element
it is. Where an element stands then says how the table is laid out: dims that follow dims of the
heads, one that follows columns, and dims at one fixed place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import value
from ascend_passes.meaning.family import agrees
from ascend_passes.meaning.lift import WidePiece

Ask = Callable[[Mapping[fx.Node, Tensor]], Tensor]
"""The factors of a piece, in the shape of its heads, for values of its tables."""
Progression = tuple[int, int]
"""Start and step of columns."""
WHOLE, REAL, IMAGINARY = "", "real", "imaginary"


@dataclass(frozen=True)
class Table:
    """How to make factors for heads [..., D] of a table."""

    leaf: int
    """The table's place among the leaves of the piece."""
    part: str = WHOLE
    """Which part of complex numbers."""
    factor: float = 1.0
    fixed: tuple[tuple[int, int], ...] = ()
    """Dims of the table that are read at one place, the last first."""
    column_dim: int = -1
    """The dim, of those left, that follows columns."""
    rows: tuple[int, ...] = ()
    """The dims of the heads that the other dims follow, in the order of the table."""
    dims: tuple[int, ...] | None = None
    """The dims of the table that follow one dim of the heads each, as many as `rows`; None where
    dims are parts of others, so that sizes have to be named."""
    paired: bool = False
    """Whether columns are neighbours in pairs, not in halves."""
    columns: tuple[Progression, Progression] | None = None
    """The columns of each half or pair; None where they are the table's own."""


def table_behind(lifted: WidePiece, shape: tuple[int, ...], ask: Ask) -> Table | str:
    """The table behind factors, or what is wrong with them."""
    found = list(read_tables(lifted, ask))
    if len(found) != 1:
        return "are read from several tables" if found else "are read from no table"
    (leaf, part, factor) = found[0]
    if factor is None:
        return "have another factor for each element"
    node = lifted.cone.leaves[leaf]
    numbered = distinct(lifted.shape(node))
    given = {**blank(lifted), node: as_part(numbered, value(node).dtype, part)}
    places = places_of(ask(given) / factor, numbered)
    if places is None:
        return "are no elements of their table"
    table = laid(places, numbered.shape, shape, Table(leaf, part, factor))
    if isinstance(table, str):
        return table
    made = arranged(given[node], table, torch.empty(shape, dtype=torch.float64))
    return table if agrees(made.expand(shape), ask(given)) else "are laid out in no known way"


def blank(lifted: WidePiece) -> dict[fx.Node, Tensor]:
    """Zeros for all that a piece reads beside its heads."""
    return {
        leaf: torch.zeros(
            lifted.shape(leaf),
            dtype=torch.complex128 if value(leaf).dtype.is_complex else torch.float64,
        )
        for leaf in lifted.unknown
    }


def read_tables(lifted: WidePiece, ask: Ask) -> Iterator[tuple[int, str, float | None]]:
    """The tables, or parts of them, that factors depend on, each with its factor: None where that
    is not one number."""
    for index, leaf in enumerate(lifted.cone.leaves):
        if leaf in lifted.known:
            continue
        kind = value(leaf).dtype
        for part in (REAL, IMAGINARY) if kind.is_complex else (WHOLE,):
            ones = torch.ones(lifted.shape(leaf), dtype=torch.float64)
            factors = ask({**blank(lifted), leaf: as_part(ones, kind, part)})
            if factors.any():
                number = float(factors.reshape(-1)[0])
                same = agrees(factors, torch.full_like(factors, number))
                yield index, part, number if same else None


def as_part(numbers: Tensor, kind: torch.dtype, part: str) -> Tensor:
    """Real numbers as a table of a dtype, in one part of complex numbers."""
    if not kind.is_complex:
        return numbers
    zero = torch.zeros_like(numbers)
    return torch.complex(*((numbers, zero) if part == REAL else (zero, numbers)))


def distinct(shape: tuple[int, ...]) -> Tensor:
    """Another number for each element, none of them zero."""
    return torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).reshape(shape)


def places_of(factors: Tensor, numbered: Tensor) -> Tensor | None:
    """Which element of a numbered table each factor is; None where one is none."""
    whole = factors.round()
    inside = bool((whole >= 1).all() and (whole <= numbered.numel()).all())
    close = bool(((factors - whole).abs() <= 1e-6 * whole.abs()).all())
    return whole.long() - 1 if inside and close else None


def laid(
    places: Tensor, table_shape: Sequence[int], shape: tuple[int, ...], start: Table
) -> Table | str:
    """How a table lies behind factors of a shape, from the place of each factor in it."""
    fixed: list[tuple[int, int]] = []
    column_dims: list[int] = []
    row_dims: list[int] = []
    coordinates = torch.unravel_index(places, tuple(table_shape))
    for dim, at in enumerate(coordinates):
        if table_shape[dim] == 1:
            continue
        if bool((at == at.reshape(-1)[0]).all()):
            fixed.insert(0, (dim, int(at.reshape(-1)[0])))
        elif bool((at == at.reshape(-1, shape[-1])[0]).all()):
            column_dims.append(dim)
        elif bool((at == at[..., :1]).all()):
            row_dims.append(dim)
        else:
            return "mix rows and columns of their table"
    if len(column_dims) != 1:
        return "are the same in all columns" if not column_dims else "mix dims of their table"
    kept = [dim for dim in range(len(table_shape)) if dim not in dict(fixed)]
    rows = rows_followed(coordinates, row_dims, table_shape, shape)
    if rows is None:
        return "are read from rows in another order"
    columns = coordinates[column_dims[0]].reshape(-1, shape[-1])[0].tolist()
    paired, parts = by_parts(columns, table_shape[column_dims[0]])
    if parts is None and columns != list(range(table_shape[column_dims[0]])):
        return "are read from columns in another order"
    dims = one_by_one(coordinates, row_dims, rows, shape)
    left = None if dims is None else tuple(kept.index(dim) for dim in dims)
    column = kept.index(column_dims[0])
    return replace(
        start,
        fixed=tuple(fixed),
        column_dim=column,
        rows=rows,
        dims=left,
        paired=paired,
        columns=parts,
    )


def one_by_one(
    coordinates: Sequence[Tensor],
    row_dims: Sequence[int],
    rows: tuple[int, ...],
    shape: tuple[int, ...],
) -> tuple[int, ...] | None:
    """The dims of a table that follow the dims `rows` of the heads, each its own; None where one
    follows several, or the other way round."""
    found = []
    for k in rows:
        along = torch.arange(shape[k]).reshape([-1 if dim == k else 1 for dim in range(len(shape))])
        found += [dim for dim in row_dims if bool((coordinates[dim] == along).all())][:1]
    return tuple(found) if len(found) == len(rows) == len(row_dims) else None


def rows_followed(
    coordinates: Sequence[Tensor],
    row_dims: Sequence[int],
    table_shape: Sequence[int],
    shape: tuple[int, ...],
) -> tuple[int, ...] | None:
    """The dims of the heads that rows of a table follow, in the table's order; None where rows are
    left out or come in another order."""
    flat = torch.zeros(shape, dtype=torch.long)
    for dim in row_dims:
        flat = flat * table_shape[dim] + coordinates[dim]
    flat = flat[..., 0]
    moving = [k for k in range(flat.dim()) if flat.narrow(k, 0, 1).expand_as(flat).ne(flat).any()]
    if math.prod(shape[k] for k in moving) != math.prod(table_shape[dim] for dim in row_dims):
        return None
    for order in itertools.permutations(moving):
        wanted = torch.arange(math.prod(shape[k] for k in order))
        spread = wanted.reshape([shape[k] for k in order]).permute(
            [order.index(k) for k in sorted(order)]
        )
        sizes = [shape[k] if k in order else 1 for k in range(flat.dim())]
        if bool((spread.reshape(sizes) == flat).all()):
            return order
    return None


def by_parts(columns: list[int], width: int) -> tuple[bool, tuple[Progression, Progression] | None]:
    """Whether columns come in pairs, and the progressions of their halves or pairs; None where they
    are all columns in order, or no progressions."""
    if columns == list(range(width)):
        return False, None
    half = len(columns) // 2
    for paired, one, other in (
        (False, columns[:half], columns[half:]),
        (True, columns[::2], columns[1::2]),
    ):
        first, second = progression(one), progression(other)
        if first is not None and second is not None:
            return paired, (first, second)
    return False, None


def progression(columns: list[int]) -> Progression | None:
    """Start and step of numbers that grow by the same step."""
    step = columns[1] - columns[0] if len(columns) > 1 else 1
    grows = step > 0 and columns == [columns[0] + step * i for i in range(len(columns))]
    return (columns[0], step) if grows else None


def arranged(table: Tensor, form: Table, x: Tensor) -> Tensor:
    """The factors for heads x, of as many dims, with size 1 where they are all alike."""
    if form.part:
        table = torch.view_as_real(table)[..., int(form.part == IMAGINARY)]
    for dim, place in form.fixed:
        table = table.select(dim, place)
    table = by_dims(table, form, x) if form.dims is not None else by_sizes(table, form, x)
    if form.columns is not None:
        table = with_columns(table, form.columns, x.shape[-1] // 2, form.paired)
    return table if form.factor == 1.0 else table * form.factor


def by_dims(table: Tensor, form: Table, x: Tensor) -> Tensor:
    """A table whose dims follow dims of the heads, with size 1 for the other ones."""
    assert form.dims is not None
    wanted = dict(zip(form.rows, form.dims, strict=True))
    column = form.column_dim % table.dim()
    spare = [dim for dim in range(table.dim()) if dim != column and dim not in wanted.values()]
    order: list[int] = []
    for dim in range(x.dim() - 1):
        if dim in wanted:
            order.append(wanted[dim])
        elif spare and table.dim() == x.dim():
            order.append(spare.pop(0))
    moved = [*order, *spare, column]
    if moved != list(range(table.dim())):
        table = table.permute(moved)
    if table.dim() == x.dim():
        return table
    for dim in reversed(range(len(order), len(order) + len(spare))):
        table = table.squeeze(dim)
    for dim in range(x.dim() - 1):
        table = table if dim in wanted else table.unsqueeze(dim)
    return table


def by_sizes(table: Tensor, form: Table, x: Tensor) -> Tensor:
    """A table whose dims are parts of dims of the heads, or several of them."""
    table = table.movedim(form.column_dim, -1)
    order = sorted(form.rows)
    if order != list(form.rows):
        table = table.reshape([*(x.shape[dim] for dim in form.rows), table.shape[-1]])
        table = table.permute([*(form.rows.index(dim) for dim in order), len(order)])
    sizes = [x.shape[dim] if dim in form.rows else 1 for dim in range(x.dim() - 1)]
    return table.reshape([*sizes, table.shape[-1]])


def with_columns(
    table: Tensor, columns: tuple[Progression, Progression], half: int, paired: bool
) -> Tensor:
    """The columns of a table in halves, or in pairs."""
    first, second = (
        table[..., start : start + (half - 1) * step + 1 : step] for start, step in columns
    )
    if not paired:
        return torch.cat((first, second), -1)
    return torch.stack((first, second), -1).flatten(-2)
