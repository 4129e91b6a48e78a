"""One form for equal graphs: no-op nodes gone, and each operation under one name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.forms import FORMS, Form
from ascend_passes.ir.graph import has_effect, value
from ascend_passes.report.value import Report


def normalize(graph: fx.Graph, strict: bool = True) -> Report:
    """Bring a graph to its normal form, in place; `fired` counts the nodes that went.

    A form that raises is an error of the report, and its node stays as it is; under `strict` it
    raises.
    """
    before = len(graph.nodes)
    errors: list[str] = []
    for node in list(graph.nodes):
        name = node.name
        try:
            bring_to_form(node)
        except Exception as error:  # one node's form is no reason to fuse nothing
            if strict:
                raise
            errors.append(f"normalize left {name} as it was: {type(error).__name__}: {error}")
    remove_dead(graph)
    gone = max(0, before - len(graph.nodes))
    return Report(fired={"normalize": gone}, errors=tuple(errors))


def bring_to_form(node: fx.Node) -> None:
    """Replace a node by its form, and that by its own, until one is normal."""
    form = form_of(node)
    while form is not None:
        given = node.args
        other = form(node)
        if other is None or (other is node and node.args is given):
            return
        if other is not node:
            node.replace_all_uses_with(other)
            node.graph.erase_node(node)
        node, form = other, form_of(other)


def form_of(node: fx.Node) -> Form | None:
    """The form for a node's operator; none for a call on a number, as vmap makes them, and for
    tensors without strides."""
    form = FORMS.get(node.target) if node.op == "call_function" else None
    source = node.args[0] if form is not None and node.args else None
    taken = value(source) if isinstance(source, fx.Node) else None
    return form if taken is not None and strided(taken) and strided(value(node)) else None


def strided(fake: Any) -> bool:
    """Whether a value is no tensor of another layout, such as a sparse one."""
    return not isinstance(fake, Tensor) or fake.layout is torch.strided


def remove_dead(graph: fx.Graph) -> None:
    """Remove pure nodes that nobody uses."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op in ("call_function", "get_attr") and not has_effect(node):
            graph.erase_node(node)
