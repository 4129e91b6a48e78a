"""The arguments of an operator call in one form, however the call was written."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import value

aten = torch.ops.aten
DIMS = ("dim", "dims", "dim0", "dim1", "axis")
"""Names of arguments that count dims."""


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """The arguments of an operator call in schema order, defaults filled in, in one form.

    Dims are not negative, shapes are those of the result, and what only repeats the input's layout,
    device or pinning is None. The arguments of other calls are returned as they are.
    """
    target = node.target
    given, named = node.args, node.kwargs
    if not isinstance(target, torch._ops.OpOverload):
        return (*given, *named.values())
    count, found = len(given), []
    for index, (name, default) in enumerate(entries(target)):
        one = given[index] if index < count else named.get(name, default)
        found.append(one if isinstance(one, fx.Node) else argument(node, name, one))
    return tuple(found)


@functools.cache
def entries(target: torch._ops.OpOverload) -> tuple[tuple[str, Any], ...]:
    """Name and default of each argument; None where it has none.

    A schema makes its arguments anew each time that it is asked.
    """
    schema = target._schema.arguments
    return tuple((e.name, e.default_value if e.has_default_value() else None) for e in schema)


def argument(node: fx.Node, name: str, given: Any) -> Any:
    """One argument in the form that `arguments` promises."""
    if name in DIMS:
        rank = dim_rank(node)
        if isinstance(given, int) and not isinstance(given, bool) and rank:
            return given % rank
        if isinstance(given, (list, tuple)) and rank:
            return tuple(dim % rank if isinstance(dim, int) else dim for dim in given)
    if isinstance(given, torch.layout) or name == "pin_memory":
        return None
    if name == "device" and inherits_device(node):
        return None
    if name == "size" and node.target in (aten.view.default, aten.expand.default):
        return tuple(value(node).shape)
    return tuple(given) if isinstance(given, list) else given


def inherits_device(node: fx.Node) -> bool:
    """Whether the result lies on the device of the first input, whatever its name is."""
    source = node.args[0] if node.args else None
    here, there = value(node), value(source) if isinstance(source, fx.Node) else None
    return isinstance(here, Tensor) and isinstance(there, Tensor) and here.device == there.device


def dim_rank(node: fx.Node) -> int:
    """The rank that a negative dim of the node counts from; 0 where unknown."""
    source: Any = node.args[0] if node.args else None
    inserted = 0
    if isinstance(source, (list, tuple)) and source:
        inserted = int(node.target is aten.stack.default)
        source = source[0]
    inserted += int(node.target is aten.unsqueeze.default)
    fake = value(source) if isinstance(source, fx.Node) else None
    return fake.dim() + inserted if isinstance(fake, Tensor) else 0


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """The given arguments of an operator call by their names in the schema."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    names = [entry.name for entry in node.target._schema.arguments]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def is_random(target: torch._ops.OpOverload, given: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers: attention without dropout is tagged so and does not.

    Args:
        target: what is called.
        given: its arguments by name; the schema has the others.
    """
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    every = {entry.name: entry.default_value for entry in target._schema.arguments} | {**given}
    return every.get("dropout_p", 1.0) != 0.0 and every.get("train", True) is not False


def schema_order(
    target: torch._ops.OpOverload, given: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call; what is not given after a gap goes by keyword."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for entry in target._schema.arguments:
        if entry.name not in given:
            continue
        in_row = len(positional) == target._schema.arguments.index(entry)
        if entry.kwarg_only or not in_row:
            keywords[entry.name] = given[entry.name]
        else:
            positional.append(given[entry.name])
    return tuple(positional), keywords
