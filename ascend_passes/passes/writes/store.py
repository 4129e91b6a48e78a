"""A store that ends a functional write, and what lies between it and the input."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import (
    first,
    is_call,
    is_view,
    value,
)
from ascend_passes.ir.in_place import (
    SCATTERS,
    in_place_overload,
    read_call,
)

aten = torch.ops.aten


@dataclass(frozen=True)
class Write:
    """A functional write that could happen in place."""

    node: fx.Node
    target: fx.Node
    """The value that is written, in its old state."""
    results: tuple[fx.Node, ...]
    """The nodes that hold its new state."""
    absorbed: tuple[fx.Node, ...] = ()
    """Scatters that only put the new state of a view back into the tensor it is a view of."""


def is_store(node: fx.Node) -> bool:
    """Whether a node stores a new value into an input of the graph."""
    return is_call(node, aten.copy_.default) and first(node).op == "placeholder"


def path_to_input(store: fx.Node) -> Iterator[fx.Node]:
    """The functional writes between the stored value and the input that it is stored into."""
    stack, seen = [store.args[1]], set()
    while stack:
        node = stack.pop()
        if not isinstance(node, fx.Node) or node.op != "call_function" or node in seen:
            continue
        seen.add(node)
        if node.target in SCATTERS:
            yield node
            stack += node.args[:2]
        elif in_place_overload(node.target) is not None and isinstance(node.args[0], fx.Node):
            yield node
            stack.append(node.args[0])
        elif is_view(node):
            stack.append(node.args[0])
        elif node.target is operator.getitem:
            call = read_call(first(node))
            stack += list(call.bases) if call is not None else []


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    """The inputs of a graph."""
    return graph.find_nodes(op="placeholder")


def stores(owner: fx.Node) -> list[fx.Node]:
    """The final stores into an input."""
    return [user for user in owner.users if is_store(user) and user.args[0] is owner]


def shares_storage(one: fx.Node, other: fx.Node) -> bool:
    """Whether two inputs are views of the same memory, by their fake values."""
    a, b = value(one), value(other)
    if one is other or not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def argument_nodes(node: fx.Node) -> list[fx.Node]:
    """Every node among the arguments, repeats included."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found
