"""Which values of a graph lie in the same memory, and which may come to.

A compiled model's results share memory with each other and with its arguments where the model's own
do, and nowhere else: a write into one of them would show in the other, autograd marks tensors and
not values, and what is saved for the backward graph is a result like any other. So of two values
that lie apart, one at most may be seen outside of the graph before they become one.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import base, is_view, same_size, value, written

aten = torch.ops.aten
COPIES_MEMORY = frozenset(
    {
        aten.slice_scatter.default,
        aten.select_scatter.default,
        aten.diagonal_scatter.default,
        aten.as_strided_scatter.default,
        aten.copy.default,
    }
)
"""Operators that copy all of the memory behind their first argument, and not its elements alone."""


def may_replace(node: fx.Node, other: fx.Node) -> bool:
    """Whether `other`, which holds the same numbers, may stand wherever `node` does."""
    if returned(node) and (returned(other) or other.op != "call_function"):
        return False  # the caller would get one tensor for two, or a tensor of its own
    if base(node) is base(other):
        return True
    here, there = memory(node), memory(other)
    if other in here:
        return True
    if leaves(here) and base(node) is node and base(other) is not other:
        return False  # a view would keep all of its memory, and autograd forbids to write to it
    return may_be_read(node, other) and not (leaves(here) and leaves(there))


def may_be_read(node: fx.Node, other: fx.Node) -> bool:
    """Whether a reader of `node` may read `other` instead, which holds the same numbers.

    Not where somebody writes either, nor where views of `node` count from the start of its memory.
    """
    here = memory(node)
    if any(alias in written(user) for alias in here | memory(other) for user in alias.users):
        return False
    a, b = value(node), value(other)
    if not isinstance(a, Tensor) or same_size(a.storage_offset(), b.storage_offset()):
        return True
    return not any(reads_absolute_offset(user) for alias in here for user in alias.users)


def read_instead(node: fx.Node, other: fx.Node) -> None:
    """Let those who only read the numbers of `node` read those of `other`, where they may.

    For values that must lie apart: what follows from them is the same, and may become one.
    """
    readers = [user for user in node.users if user.op != "output" and not tells(user, node)]
    if readers and may_be_read(node, other):
        for user in readers:
            user.replace_input_with(node, other)


def tells(user: fx.Node, node: fx.Node) -> bool:
    """Whether `user` hands the memory of `node` on, one of its results, or how large it is."""
    passes_on = user.target is operator.getitem or is_alias_of(user, node)
    return passes_on or copies_memory(user, node)


def copies_memory(user: fx.Node, node: fx.Node) -> bool:
    """Whether the result of `user` is as large in memory as what `node` lies in.

    An operator with a graph of its own may hold such an operator.
    """
    if user.target in COPIES_MEMORY:
        return user.args[0] is node
    return isinstance(user.target, torch._ops.HigherOrderOperator)


def aliases(start: Iterable[fx.Node]) -> set[fx.Node]:
    """`start` and every view of it."""
    found: set[fx.Node] = set()
    stack = list(start)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        stack += [user for user in node.users if is_alias_of(user, node)]
    return found


def is_alias_of(user: fx.Node, node: fx.Node) -> bool:
    """Whether `user` is a view of `node`, or a part of a view with several results."""
    if user.target is operator.getitem:
        return isinstance(value(node), (tuple, list)) and is_view(node)
    return is_view(user) and user.args[0] is node


def memory(node: fx.Node) -> set[fx.Node]:
    """Every node that lies in the memory of `node`: all results' memory of a call with several."""
    owner = base(node)
    parts: Iterable[fx.Node] = owner.users
    if owner.target is operator.getitem:
        source = owner.args[0]
        assert isinstance(source, fx.Node)
        parts = (user for user in source.users if user.args == owner.args)
    return aliases([owner, *(user for user in parts if user.target is operator.getitem)])


def returned(node: fx.Node) -> bool:
    """Whether the graph returns the node's value as it is."""
    return any(user.op == "output" for user in node.users)


def leaves(memory: Iterable[fx.Node]) -> bool:
    """Whether somebody outside of the graph sees the memory: it is returned, or was there
    before."""
    return any(node.op != "call_function" or returned(node) for node in memory)


def size_shows(memory: Iterable[fx.Node]) -> bool:
    """Whether somebody outside of the graph may see how large the memory is: it leaves, or what is
    as large as it."""
    memory = set(memory)
    return leaves(memory) or any(
        copies_memory(user, alias) for alias in memory for user in alias.users
    )


def reads_absolute_offset(node: fx.Node) -> bool:
    """Whether a node addresses its input's storage by a fixed offset."""
    if node.target in (aten.as_strided.default, aten.as_strided_scatter.default):
        return True
    return node.target is torch.ops.higher_order.auto_functionalized_v2 and any(
        name.endswith("_storage_offset") for name in node.kwargs
    )


def keep_results_apart(graph: fx.Graph, plain: Iterable[bool]) -> None:
    """Let a result that was no view for autograd be none, though it lies in another's memory.

    `_unsafe_view` is normalized to `view`; as a result the two differ: autograd forbids to write to
    a view that was made inside a compiled function.

    Args:
        graph: edited in place.
        plain: `plain_results` of the graph as it was traced.
    """
    for was_plain, result in zip(plain, results(graph), strict=True):
        if was_plain and is_viewed(result):
            result.target = aten._unsafe_view.default


def plain_results(graph: fx.Graph) -> list[bool]:
    """For each result whether it is a tensor of the graph's that is no `view`."""
    return [isinstance(node, fx.Node) and not is_viewed(node) for node in results(graph)]


def results(graph: fx.Graph) -> list[Any]:
    """What a graph returns."""
    returned: Any = graph.output_node().args[0]
    return list(returned) if isinstance(returned, (list, tuple)) else [returned]


def is_viewed(node: Any) -> bool:
    """Whether a value is a `view` of something that the graph computes."""
    return (
        isinstance(node, fx.Node)
        and node.target is aten.view.default
        and base(node).op == "call_function"
    )
