"""One form for equal graphs: no-op nodes gone, and each operation under one name."""

from __future__ import annotations

from torch import fx

from ascend_passes.forms import FORMS
from ascend_passes.graph import has_effect
from ascend_passes.report import Report


def normalize(graph: fx.Graph) -> Report:
    """Bring a graph to its normal form, in place; `fired` counts the nodes that went."""
    before = len(graph.nodes)
    for node in list(graph.nodes):
        form = FORMS.get(node.target) if node.op == "call_function" else None
        while form is not None:
            other = form(node)
            if other is None:
                break
            if other is not node:
                node.replace_all_uses_with(other)
                graph.erase_node(node)
            node, form = other, FORMS.get(other.target) if other is not node else None
    remove_dead(graph)
    return Report(fired={"normalize": max(0, before - len(graph.nodes))})


def remove_dead(graph: fx.Graph) -> None:
    """Remove pure nodes that nobody uses."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op in ("call_function", "get_attr") and not has_effect(node):
            graph.erase_node(node)
