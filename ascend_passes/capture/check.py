"""Reads off a graph, before anything runs, what a device graph cannot hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.capture.fault import Fault
from ascend_passes.capture.rules import capture_refusal
from ascend_passes.capture.symbols import is_tensor
from ascend_passes.ir.graph import operator_name, place, value


def faults(graph: fx.Graph, device: str) -> Iterator[Fault]:
    """Every node that cannot be captured on this type of device, with the model's line."""
    for node in graph.nodes:
        kind = fault_kind_of(node, device)
        if kind:
            yield fault_at(kind, node)


def fault_at(kind: str, node: fx.Node) -> Fault:
    """The fault of a node; an input or constant is named by the first operator that reads it."""
    reader = next(iter(node.users), node) if node.op in ("placeholder", "get_attr") else node
    return Fault(kind, operator_name(reader) or str(reader.target), place(reader).line)


def constants(gm: fx.GraphModule) -> tuple[Tensor, ...]:
    """The tensors that the graph holds itself."""
    found = (constant(node) for node in gm.graph.nodes if node.op == "get_attr")
    return tuple(tensor for tensor in found if isinstance(tensor, Tensor))


def fault_kind_of(node: fx.Node, device: str) -> str | None:
    """The kind of fault that a node is, or None."""
    if node.op == "placeholder":
        return "host_input" if node.users and on_host(value(node), device) else None
    if node.op == "get_attr":
        return "host_constant" if on_host(constant(node), device) else None
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    inputs = fx.map_arg((node.args, node.kwargs), value)
    kind = capture_refusal(node.target, *inputs)
    if kind is None and on_host(value(node), device):
        return "host_copy" if any(map(is_tensor, node.all_input_nodes)) else "host_constant"
    return kind


def constant(node: fx.Node) -> Any:
    """The tensor behind a `get_attr` node."""
    found: Any = node.graph.owning_module
    for step in str(node.target).split("."):
        found = getattr(found, step, None)
    return found if isinstance(found, Tensor) else value(node)


def on_host(fake: Any, device: str) -> bool:
    """Whether a tensor is in host memory while the graph runs on another device."""
    return isinstance(fake, Tensor) and device != "cpu" and fake.device.type == "cpu"


def line_of(graph: fx.Graph, operator: str) -> str:
    """The model's line of the first node that calls this operator; "" where none does."""
    calls = (node for node in graph.nodes if operator and operator_name(node) == operator)
    found = next(calls, None)
    return place(found).line if found is not None else ""
