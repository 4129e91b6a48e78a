"""Whether a graph is still one: what each stage has to leave, whatever it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import value
from ascend_passes.ir.sharing import results
from ascend_passes.ir.trace import fake_mode_of, faking

Call = tuple[Any, tuple[Any, ...], Any]


class StructureError(RuntimeError):
    """A stage left a graph that is none; the text names the node and what is wrong with it."""


class Structure:
    """A graph as the stages found it, and the calls that were looked at since."""

    def __init__(self, graph: fx.Graph) -> None:
        self.results = [described(one) for one in results(graph)]
        self.seen: dict[fx.Node, Call] = {node: call_of(node) for node in graph.nodes}

    def require(self, graph: fx.Graph) -> None:
        """Look at what has changed since the last time.

        Raises:
            StructureError: a node is read before it is computed; a call's noted value is not what
                its operator gives; a result has another dtype, shape, or layout.
        """
        try:
            graph.lint()
        except RuntimeError as error:
            raise StructureError(str(error)) from error
        for node in graph.nodes:
            if node.op == "call_function" and self.seen.get(node) != (call := call_of(node)):
                require_value(node)
                self.seen[node] = call
        found = [described(one) for one in results(graph)]
        if found != self.results:
            raise StructureError(f"the graph returns {found}, not {self.results}")


def call_of(node: fx.Node) -> Call:
    """What a node computes."""
    return node.target, node.args, node.kwargs


def require_value(node: fx.Node) -> None:
    """Compute a call on the noted values of its arguments, and compare.

    Raises:
        StructureError: it has no noted value, or another one.
    """
    arguments, keywords = fx.map_arg((node.args, node.kwargs), value)
    tensors = [v for v in torch.utils._pytree.tree_leaves(value(node)) if isinstance(v, Tensor)]
    if not tensors or has_unbacked(tensors):
        return  # a number, an effect, or sizes that each computation would name anew
    target: Any = node.target
    try:
        with faking(fake_mode_of(tensors)):
            found = target(*arguments, **keywords)
    except Exception as error:
        said = f"{node.format_node()} does not take its arguments: {error}"
        raise StructureError(said) from error
    if described_all(found) != described_all(value(node)):
        noted = described_all(value(node))
        raise StructureError(f"{node.format_node()} gives {described_all(found)}, noted is {noted}")


def has_unbacked(tensors: list[Tensor]) -> bool:
    """Whether a size depends on data."""
    symbols = torch.fx.experimental.symbolic_shapes.free_unbacked_symbols
    return any(symbols(tensor) for tensor in tensors)


def described_all(fakes: Any) -> list[str]:
    """`described` of each value of a call."""
    return [described(one) for one in torch.utils._pytree.tree_leaves(fakes)]


def described(one: Any) -> str:
    """Dtype, sizes and strides of a value, in words; strides of dims with one element do not
    count."""
    fake = value(one) if isinstance(one, fx.Node) else one
    if not isinstance(fake, Tensor):
        return type(fake).__name__
    steps = zip(fake.shape, fake.stride(), strict=True)
    strides = [step for size, step in steps if not (isinstance(size, int) and size == 1)]
    return f"{fake.dtype} {list(fake.shape)} {strides} on {fake.device}"
