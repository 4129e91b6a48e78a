"""Task update: host-side parameters of attention operators that change between replays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import fx

from ascend_passes.capture.fault import failure
from ascend_passes.graph import arguments_by_name, operator_name

UPDATED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "npu::npu_fused_infer_attention_score": (
            "actual_seq_lengths",
            "actual_seq_lengths_kv",
            "actual_shared_prefix_len",
        ),
        "npu::npu_fused_infer_attention_score_v2": ("actual_seq_qlen", "actual_seq_kvlen"),
    }
)
"""Operators whose integer lists a captured graph takes anew, after torchair's `acl_graph.py`."""


def updates(graph: fx.Graph) -> Iterator[Mapping[str, tuple[Any, ...]]]:
    """For each such operator in order, parameter name to its list of nodes and numbers."""
    for node in graph.nodes:
        names = UPDATED.get(operator_name(node), ())
        found = {
            name: tuple(argument)
            for name, argument, _ in arguments_by_name(node)
            if name in names and isinstance(argument, (list, tuple))
        }
        if names:
            yield found


def updated_only(graph: fx.Graph) -> frozenset[str]:
    """Names of placeholders that are read by such parameters and by nothing else."""
    lists: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        names = UPDATED.get(operator_name(node), ())
        for name, argument, _ in arguments_by_name(node):
            if (
                name in names
                and isinstance(argument, (list, tuple))
                and all(map(is_input, argument))
            ):
                for entry in argument:
                    lists.setdefault(entry, set()).add(node)
    return frozenset(entry.name for entry, users in lists.items() if set(entry.users) == users)


def is_input(entry: Any) -> bool:
    """Whether a list's entry is an input of the graph; a list with anything else is captured."""
    return isinstance(entry, fx.Node) and entry.op == "placeholder"


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
    allowed = UPDATED[function._schema.name]
    for name in values:
        if name not in allowed:
            raise failure("no_update", function._schema.name, name)
    positions = [entry.name for entry in function._schema.arguments]
    given = tuple(
        list(values[name]) if name in values else value
        for name, value in zip(positions, args, strict=False)
    )
    named = {
        name: list(value) for name, value in values.items() if name not in positions[: len(args)]
    }
    return given, {**kwargs, **named}
