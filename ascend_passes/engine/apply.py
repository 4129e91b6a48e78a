"""Puts a replacement in the place of what was found."""

from __future__ import annotations

from torch import Tensor, fx

from ascend_passes.engine.emission import Emission
from ascend_passes.engine.found import Found
from ascend_passes.engine.hazards import insertion_point, late_inputs
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import value


def apply(graph: fx.Graph, found: Found, emission: Emission) -> list[fx.Node]:
    """Put the replacement in, hand its results to the users of the old ones, and drop the old
    nodes that nobody uses any more.

    Returns:
        The nodes whose arguments are others now, or that are gone.
    """
    point = insertion_point(found)
    for node in late_inputs(found, point):
        point.prepend(node)
    copies: dict[fx.Node, fx.Node] = {}
    with Editor(graph, found.name).at(found.anchor, point) as edit:
        for node in emission.graph.nodes:
            if node.op == "placeholder":
                copies[node] = found.inputs[node.meta["input"]]
            elif node.op != "output":
                args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
                copies[node] = edit.known(value(node), node.target, *args, **kwargs)
    for old, new in zip(found.outputs, emission.outputs, strict=True):
        if old is not None:
            old.replace_all_uses_with(copies[new], propagate_meta=False)
            if copies[new].op == "call_function" and isinstance(value(old), Tensor):
                copies[new].meta["val"] = value(old)
    gone = [
        node
        for node in sorted((node for node in found.nodes if node is not None), reverse=True)
        if erased(graph, node)
    ]
    return gone + [user for node in emission.outputs for user in copies[node].users]


def erased(graph: fx.Graph, node: fx.Node) -> bool:
    """Erase a node that nobody uses; whether it was."""
    if node.users:
        return False
    graph.erase_node(node)
    return True
