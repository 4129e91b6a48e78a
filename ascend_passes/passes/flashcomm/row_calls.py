"""One rank's rows of a call: how the call is written, and what an operator's traits say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.arguments import entries, named_arguments
from ascend_passes.ir.graph import operator_name, same_size, same_sizes, value
from ascend_passes.ir.traits import Traits, traits_of


@dataclass(frozen=True)
class RowsOf:
    """Stands in a local call for this rank's rows of `node`, which has `lead` row dimensions."""

    node: fx.Node
    lead: int


@dataclass(frozen=True)
class Flat:
    """Stands in a local call for a value without rows, its leading dimensions of size 1 dropped."""

    node: fx.Node
    dimensions: int


@dataclass(frozen=True)
class LocalCall:
    """The call that computes one rank's rows of a node."""

    identity: str
    """Name of the identity, for the switch `-sequence_parallel.<identity>`."""
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    lead: int
    """Row dimensions of the full result; of each output, where there are several."""
    moves_data: bool = True
    """False for views, which cost nothing."""

    @property
    def operands(self) -> list[RowsOf]:
        """The operands that have rows."""
        found: list[RowsOf] = []

        def collect(argument: Any) -> Any:
            if isinstance(argument, RowsOf):
                found.append(argument)
            return argument

        fx.node.map_aggregate((self.args, dict(self.kwargs)), collect)
        return found


Answer = LocalCall | str | None
"""A call, a sentence why not, or None for an operator that is not row-wise at all."""
LeadOf = Callable[[fx.Node], int]
"""The row dimensions of a node's value; 0 for a value without rows."""


def by_traits(node: fx.Node, lead_of: LeadOf) -> Answer:
    """An operator whose traits name the arguments that have rows."""
    traits, name = traits_of(node.target), operator_name(node)
    given = with_defaults(node)
    rows = {key: given[key] for key in traits.rows if given.get(key) is not None}
    lead, reason = common_lead(rows, lead_of)
    reason = (
        reason or shared_argument(given, rows, traits, lead_of) or rows_worked_over(given, traits)
    )
    if reason:
        return f"{name} {reason}"
    changed = columns_behind(given, traits, lead, dimensions_of(next(iter(rows.values()))))
    if isinstance(changed, str):
        return f"{name} {changed}"
    if traits.trailing and lead + len(given[traits.trailing]) > dimensions_of(
        given[traits.rows[0]]
    ):
        return f"{name} normalizes over rows"
    changed |= {key: RowsOf(argument, lead) for key, argument in rows.items()}
    return LocalCall(traits.identity, node.target, *with_arguments(node, changed), lead)


def common_lead(rows: Mapping[str, fx.Node], lead_of: LeadOf) -> tuple[int, str]:
    """The row dimensions that all arguments with rows share, and why there are none such."""
    leads = {lead_of(node) for node in rows.values()} - {0}
    if len(leads) != 1:
        return 0, "reads rows of different shapes"
    lead = leads.pop()
    shapes = [value(node).shape[:lead] for node in rows.values()]
    alike = all(same_sizes(shape, shapes[0]) for shape in shapes)
    return lead, "" if alike else "reads rows of different shapes"


def shared_argument(
    given: Mapping[str, Any], rows: Mapping[str, fx.Node], traits: Traits, lead_of: LeadOf
) -> str:
    """Why an argument without rows does not serve all of them; "" where each does."""
    for key, argument in given.items():
        if key in rows or not isinstance(argument, fx.Node):
            continue
        if lead_of(argument):
            return f"reads rows as {key!r}, which serves every row"
        if (
            has_own_rows(argument) and not traits.trailing
        ):  # a gain is as large as what is normalized
            return f"has {key!r} with more than one row"
    return ""


def rows_worked_over(given: Mapping[str, Any], traits: Traits) -> str:
    """The argument that makes an operator work over rows; "" where none does."""
    wrong = (key for key, right in traits.rows_if.items() if given.get(key) not in right)
    key = next(wrong, "")
    return f"groups rows by {key!r}, so a rank's rows alone give another result" if key else ""


def columns_behind(given: Mapping[str, Any], traits: Traits, lead: int, rank: int) -> Any:
    """The dimensions of a call on `[R, ...]` by argument, or in words which of them holds rows."""
    changed: dict[str, Any] = {}
    for key in traits.columns:
        dims: Any = given.get(key)
        several = isinstance(dims, (list, tuple))
        each = list(dims) if several else [dims]
        if not each or not all(isinstance(dim, int) for dim in each):
            return "works over all dimensions, rows among them"
        if any(dim % rank < lead for dim in each):
            return f"works over dimension {dims}, which holds rows"
        local = [dim - lead + 1 if dim >= 0 else dim for dim in each]
        if local != each:
            changed[key] = local if several else local[0]
    return changed


def with_defaults(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by name, those that it leaves out as well."""
    return dict(entries_of(node)) | named_arguments(node)


def entries_of(node: fx.Node) -> tuple[tuple[str, Any], ...]:
    """Name and default of each argument of the operator that a node calls."""
    assert isinstance(node.target, torch._ops.OpOverload)
    return entries(node.target)


def with_arguments(
    node: fx.Node, changed: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call as it gives them, with other values for some."""
    names = [name for name, _ in entries_of(node)]
    args = tuple(changed.get(name, one) for name, one in zip(names, node.args, strict=False))
    return args, {
        **node.kwargs,
        **{name: one for name, one in changed.items() if name not in names[: len(args)]},
    }


def dimensions_of(node: fx.Node) -> int:
    """The dimensions of a node's value."""
    return int(value(node).dim())


def has_own_rows(node: fx.Node) -> bool:
    """Whether an argument that should serve every row has several rows of its own."""
    given = value(node)
    if not isinstance(given, Tensor) or given.dim() < 2:
        return False
    return given.dim() > 2 or not same_size(given.shape[0], 1)
