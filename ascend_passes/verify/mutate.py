"""Graphs that differ a little from a pattern, to see what a rule makes of them."""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.forms import END
from ascend_passes.engine.template_value import literal
from ascend_passes.ir import trace
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import value

aten = torch.ops.aten
Insertion = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""(operator, arguments behind the tensor, keyword arguments)."""
FAKE_LOGGER = logging.getLogger("torch._subclasses.fake_tensor")
"""It prints a trace for each call that an operator refuses."""
OTHER_MODES = {"half": "interleave", "interleave": "half"}


def pattern_calls(graph: fx.Graph) -> list[fx.Node]:
    """The operator calls of a trial's graph without those that negate its inputs."""
    return [
        node
        for node in graph.nodes
        if node.op == "call_function" and not (node.args and is_placeholder(node.args[0]))
    ]


def is_placeholder(argument: Any) -> bool:
    """Whether an argument is an input of the graph."""
    return isinstance(argument, fx.Node) and argument.op == "placeholder"


def changes(argument: Any, kept: Collection[Any]) -> Iterator[Any]:
    """The argument with one literal in it changed, for each; those in `kept` stay."""
    if isinstance(argument, dict):
        for key, item in argument.items():
            yield from ({**argument, key: other} for other in changes(item, kept))
    elif isinstance(argument, (list, tuple)):
        if literal(argument) in kept:
            return
        for index, item in enumerate(argument):
            for other in changes(item, kept):
                yield type(argument)([*argument[:index], other, *argument[index + 1 :]])
    elif isinstance(argument, bool):
        yield not argument
    elif isinstance(argument, (int, float)) and argument not in kept and argument != END:
        yield argument + 1
        yield argument - 1
    elif isinstance(argument, str) and argument not in kept:
        yield OTHER_MODES.get(argument, f"no {argument}")
    elif isinstance(argument, torch.dtype) and argument.is_floating_point:
        yield torch.float64
        yield torch.float16 if argument == torch.bfloat16 else torch.bfloat16


def refreshed(graph: fx.Graph) -> bool:
    """Compute the values of all operator calls anew; False where the graph is no program."""
    mode = trace.fake_mode_of([value(node) for node in graph.find_nodes(op="placeholder")])
    with trace.faking(mode), silence(FAKE_LOGGER):
        for node in graph.nodes:
            if node.op != "call_function":
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
            try:
                node.meta["val"] = node.target(*args, **kwargs)
            except Exception:  # operators refuse arguments with whatever they like
                return False
    return True


@contextlib.contextmanager
def silence(logger: logging.Logger) -> Iterator[None]:
    """Without what a logger would print."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def structure(graph: fx.Graph) -> list[Any]:
    """Each node's operator and arguments, without names."""
    position = {node: index for index, node in enumerate(graph.nodes)}

    def place(node: fx.Node) -> Any:
        return f"node {position[node]}"

    return [
        (
            node.target if node.op == "call_function" else node.op,
            fx.node.map_arg((node.args, node.kwargs), place),
        )
        for node in graph.nodes
    ]


def another_use(node: fx.Node) -> fx.Node | None:
    """The tensor that another user of a node would take; None where all its tensors are taken."""
    fake = value(node)
    if isinstance(fake, Tensor):
        return node
    if not isinstance(fake, (list, tuple)):
        return None
    taken = {user.args[1] for user in node.users if user.target is operator.getitem}
    free = next((index for index in range(len(fake)) if index not in taken), None)
    if free is None:
        return None
    with Editor(node.graph).at(node, node.next) as edit:
        return edit.item(node, free)


def insert_behind(node: fx.Node, insertion: Insertion) -> None:
    """Put an operator between a node and its users, unless it would change the strides."""
    target, args, kwargs = insertion
    with trace.faking(trace.fake_mode_of([value(node)])):
        fake = target(value(node), *args, **kwargs)
    if fake.stride() != value(node).stride():
        return
    with Editor(node.graph).at(node, node.next) as edit:
        new = edit.known(fake, target, node, *args, **kwargs)
    edit.replace(node, new)


def same_view(fake: Tensor) -> Insertion:
    """A view to the tensor's own shape."""
    return aten.view.default, (list(fake.shape),), {}


def same_cast(fake: Tensor) -> Insertion:
    """A cast to the tensor's own dtype."""
    return aten._to_copy.default, (), {"dtype": fake.dtype}


def same_copy(fake: Tensor) -> Insertion:
    """A copy."""
    return aten.clone.default, (), {}
