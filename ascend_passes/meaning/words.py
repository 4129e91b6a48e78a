"""Pieces of graphs in words that can be compared: what has the same words computes the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import value
from ascend_passes.meaning.cone import Cone


def structure_of(cone: Cone) -> tuple[Any, ...]:
    """What two pieces share that compute the same function: operators, arguments, sizes, dtypes."""
    index: dict[fx.Node, Any] = {node: ("s", i) for i, node in enumerate(cone.sources)}
    index |= {node: ("l", i) for i, node in enumerate(cone.leaves)}
    index |= {node: ("n", i) for i, node in enumerate(cone.nodes)}
    outside = tuple((node.op, value_words(node)) for node in (*cone.sources, *cone.leaves))
    calls = (worded(node, index) for node in cone.nodes)
    return *outside, *calls, tuple(index[node] for node in cone.others)


def neighbourhood(nodes: Iterable[fx.Node]) -> tuple[Any, ...]:
    """What lies round two places of a graph alike: operators, arguments, sizes, dtypes, and how
    often each value is used."""
    listed = list(nodes)
    index: dict[fx.Node, Any] = {node: ("n", i) for i, node in enumerate(listed)}
    return tuple((*worded(node, index), len(node.users)) for node in listed)


def worded(node: fx.Node, index: Mapping[fx.Node, Any]) -> tuple[Any, ...]:
    """A node in words that can be compared; those of `index` are known by their place."""
    if node.op != "call_function":
        return (node.op, value_words(node))
    keywords = tuple((name, word_of(item, index)) for name, item in node.kwargs.items())
    return (node.target, word_of(node.args, index), keywords, value_words(node))


def word_of(item: Any, index: Mapping[fx.Node, Any]) -> Any:
    """An argument in words that can be compared; 1, 1.0 and True stay apart."""
    if isinstance(item, fx.Node):
        known = index.get(item)
        return value_words(item) if known is None else known
    if isinstance(item, (list, tuple)):
        return tuple([word_of(one, index) for one in item])
    if isinstance(item, (torch.SymInt, torch.SymFloat)):
        return size_word(item)
    return (type(item), item) if isinstance(item, (bool, float)) else item


def value_words(node: fx.Node) -> Any:
    """Sizes and dtype of a node's value, in words that can be compared."""
    fake = value(node)
    if isinstance(fake, Tensor):
        return (fake.dtype, *[s if isinstance(s, int) else size_word(s) for s in fake.shape])
    return len(fake) if isinstance(fake, (tuple, list)) else size_word(fake)


def size_word(item: Any) -> Any:
    """A size as a number or as its expression."""
    if isinstance(item, int):
        return item
    number = item.node.maybe_as_int() if isinstance(item, torch.SymInt) else None
    if number is not None:
        return number
    return str(item.node.expr) if isinstance(item, (torch.SymInt, torch.SymFloat)) else str(item)
