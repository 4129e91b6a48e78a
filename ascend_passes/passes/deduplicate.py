"""Equal pure computations become one: repeated views, casts, quantizations and position tables."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.arguments import arguments
from ascend_passes.ir.graph import Context, base, has_effect, value, written_bases
from ascend_passes.ir.sharing import may_replace, read_instead
from ascend_passes.report.value import Report


def deduplicate(graph: fx.Graph, context: Context) -> Report:
    """Merge nodes that compute the same value, in place; the first one stays.

    Values that are random, freshly allocated without content, or whose memory somebody writes are
    kept, and so are two that the caller gets: what is computed from them is merged all the same.
    """
    touched = written_bases(graph)
    alike: dict[Any, fx.Node] = {}
    first: dict[Any, fx.Node] = {}
    merged = 0
    for node in list(graph.nodes):
        earlier = alike.setdefault(signs_of(node), node)
        if earlier is node:  # the first that looks so; what it computes is asked once another does
            continue
        known = node
        for one in (earlier, node):
            key = computation(one, touched)
            known = node if key is None else first.setdefault(key, one)
        if known is node:
            continue
        if not may_replace(node, known):
            read_instead(node, known)
            continue
        node.replace_all_uses_with(known)
        graph.erase_node(node)
        merged += 1
    return Report(fired={"deduplicate": merged} if merged else {})


def signs_of(node: fx.Node) -> Any:
    """What two nodes share that compute the same: for most nodes of a graph it is theirs alone."""
    return node.target, next(iter(node.all_input_nodes), None)


def computation(node: fx.Node, touched: Collection[fx.Node]) -> Any:
    """What a node computes, as a dictionary key; None for what may not be merged."""
    if not is_pure(node) or base(node) in touched:
        return None
    if any(base(source) in touched for source in node.all_input_nodes):
        return None
    key = (node.target, frozen(arguments(node)))
    try:
        hash(key)
    except TypeError:  # an argument that cannot be hashed, such as a SymInt in a list
        return None
    return key


def is_pure(node: fx.Node) -> bool:
    """Whether a node's value follows from its arguments alone."""
    if node.op != "call_function" or has_effect(node):
        return False
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__module__", "") in ("_operator", "math")
    if torch.Tag.nondeterministic_seeded in target.tags or target.namespace.startswith("_c10d"):
        return False
    return (
        target.namespace in ("aten", "prims", "npu")
        and "empty" not in target._schema.name
        and (isinstance(value(node), (Tensor, tuple, list)))
    )


def frozen(item: Any) -> Any:
    """An argument as a dictionary key; True and 1, 1 and 1.0, and 0.0 and -0.0 stay apart."""
    if isinstance(item, (list, tuple)):
        return tuple(frozen(part) for part in item)
    if isinstance(item, torch.SymInt):
        return "symbol", item.node.expr
    if isinstance(item, (float, complex)):
        return type(item), repr(item)
    return (type(item), item) if isinstance(item, (bool, int)) else item
