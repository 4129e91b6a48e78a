"""Task update: host-side parameters of attention operators that change between replays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import fx

from ascend_passes.capture.fault import fault_error
from ascend_passes.capture.symbols import Number, source_of_number
from ascend_passes.ir.graph import arguments_by_name
from ascend_passes.ir.traits import traits_of


def updates(graph: fx.Graph) -> Iterator[Mapping[str, tuple[Number, ...]]]:
    """For each such operator in order, parameter name to the numbers of its list at a call.

    A list that no input decides, or that holds what the graph reads from data, is captured.
    """
    for node in graph.nodes:
        names = traits_of(node.target).host_lists
        if names:
            yield {
                name: found
                for name, argument, _ in arguments_by_name(node)
                if name in names and (found := sources_of_numbers(argument, graph))
            }


def sources_of_numbers(argument: Any, graph: fx.Graph) -> tuple[Number, ...]:
    """How the numbers of a list follow from a call's inputs; empty for a list that is captured."""
    entries = argument if isinstance(argument, (list, tuple)) else ()
    if not any(isinstance(entry, fx.Node) for entry in entries):
        return ()
    found = [source_of_number(entry, graph) for entry in entries]
    return tuple(number for number in found if number is not None) if all(found) else ()


def in_updated_list(user: fx.Node, number: fx.Node) -> bool:
    """Whether an operator reads a number in lists alone that are given to it at each replay."""
    names = traits_of(user.target).host_lists
    holding = [
        name in names and bool(sources_of_numbers(argument, user.graph))
        for name, argument, _ in arguments_by_name(user)
        if number in (argument if isinstance(argument, (list, tuple)) else (argument,))
    ]
    return bool(holding) and all(holding)


def updated_call(
    function: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    values: Mapping[str, Sequence[int]],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with new values by parameter name.

    Raises:
        CaptureError: `no_update` for a name that the operator does not update.
    """
    allowed = traits_of(function).host_lists
    for name in values:
        if name not in allowed:
            raise fault_error("no_update", function._schema.name, name)
    positions = [entry.name for entry in function._schema.arguments]
    given = tuple(
        list(values[name]) if name in values else value
        for name, value in zip(positions, args, strict=False)
    )
    named = {
        name: list(value) for name, value in values.items() if name not in positions[: len(args)]
    }
    return given, {**kwargs, **named}
