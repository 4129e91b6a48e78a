"""A rewritten graph whose NPU operators are their references, or on CUDA our kernels.

On a CPU the dispatcher's way to a reference takes as long as several of the operators in it, so
that the references are called directly. Who watches a call sees the NPU's operators all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ascend_passes import npu
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import base, first
from ascend_passes.npu.cuda.in_graph import inlined, inlined_pair, is_looped


def with_references(gm: fx.GraphModule, device: str) -> fx.GraphModule:
    """A copy of the graph whose NPU operators without a kernel are calls of their references."""
    graph = copied(gm.graph)
    for node in list(graph.nodes):
        join_with_input(graph, node, device)
    found = {node: function for node in graph.nodes if (function := in_its_place(node, device))}
    for node, function in found.items():
        node.target = function
    return fx.GraphModule(gm, graph)


def in_its_place(node: fx.Node, device: str) -> Callable[..., Any] | None:
    """What a node calls instead of an NPU operator; None where it stays as it is."""
    operator = npu.operator_of(node.target)
    return None if operator is None else inlined(operator, device, is_fed_by_loops(node))


def join_with_input(graph: fx.Graph, node: fx.Node, device: str) -> None:
    """Make a call, and the call of which it alone reads the result, one where a kernel is both."""
    outer = npu.operator_of(node.target)
    if outer is None or node.all_input_nodes != [*node.args]:
        return
    if any(option is not None for option in node.kwargs.values()):
        return
    source = first(node)
    inner = npu.operator_of(source.target)
    function = None if inner is None else inlined_pair(inner, outer, device)
    if function is None or len(source.users) > 1 or is_fed_by_loops(source):
        return
    editor = Editor(graph)
    with editor.at(node, before=source):  # in front of what may be written to its input since
        both = editor.same(function, *source.args, **source.kwargs)
    editor.replace(node, both)
    graph.erase_node(node)
    graph.erase_node(source)


def is_fed_by_loops(node: fx.Node) -> bool:
    """Whether an operator's input comes element by element of others, which a loop of Inductor's
    computes where it is read."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return False
    target = base(source).target
    operator = npu.operator_of(target)
    if operator is not None:
        return is_looped(operator)
    tags = getattr(target, "tags", ())
    return torch.Tag.pointwise in tags or target is torch.ops.aten.cat.default


def on_cpu(gm: fx.GraphModule) -> Callable[..., Any]:
    """Runs the graph; through the dispatcher while a profiler or a dispatch mode is on."""
    direct = with_references(gm, "cpu").forward

    def run(*inputs: Any) -> Any:
        return gm.forward(*inputs) if is_watched() else direct(*inputs)

    return run


def is_watched() -> bool:
    """Whether somebody looks at the operators that are called."""
    profiled: bool = torch.autograd._profiler_enabled()
    return profiled or torch._C._len_torch_dispatch_stack() > 0
