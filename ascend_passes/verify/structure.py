"""Whether a graph is still one: what each stage has to leave, whatever it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import value
from ascend_passes.ir.proof import prove
from ascend_passes.ir.sharing import results
from ascend_passes.ir.trace import fake_mode_of, faking

Call = tuple[Any, tuple[Any, ...], Any]


class StructureError(RuntimeError):
    """A stage left a graph that is none; the text names the node and what is wrong with it."""


class Structure:
    """A graph as the stages found it, and the calls that were looked at since."""

    def __init__(self, graph: fx.Graph) -> None:
        self.results = [result_of(one) for one in results(graph)]
        self.seen: dict[fx.Node, Call] = {node: call_of(node) for node in graph.nodes}

    def require(self, graph: fx.Graph) -> None:
        """Look at what has changed since the last time.

        Raises:
            StructureError: a node is read before it is computed; a call's noted value is not what
                its operator gives; a result has another dtype or shape.
        """
        try:
            graph.lint()
        except RuntimeError as error:
            raise StructureError(str(error)) from error
        for node in graph.nodes:
            if node.op == "call_function" and self.seen.get(node) != (call := call_of(node)):
                require_value(node)
                self.seen[node] = call
        found = [result_of(one) for one in results(graph)]
        if differ(found, self.results):
            raise StructureError(f"the graph returns {found}, not {self.results}")


def call_of(node: fx.Node) -> Call:
    """What a node computes."""
    return node.target, node.args, node.kwargs


def result_of(one: Any) -> Any:
    """The value of a result, which may be a number or None."""
    return value(one) if isinstance(one, fx.Node) else one


def require_value(node: fx.Node) -> None:
    """Compute a call on the noted values of its arguments, and compare.

    Raises:
        StructureError: it has no noted value, or another one.
    """
    arguments, keywords = fx.map_arg((node.args, node.kwargs), value)
    leaves = torch.utils._pytree.tree_leaves((arguments, keywords, value(node)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors or has_unbacked(tensors):
        return  # a number, an effect, or sizes that each computation would name anew
    target: Any = node.target
    try:
        with faking(fake_mode_of(tensors)):
            found = target(*arguments, **keywords)
    except Exception as error:
        if any(isinstance(leaf, torch.SymInt) for leaf in leaves):
            return  # some operators compute on numbers only; what they give was noted by algebra
        said = f"{node.format_node()} does not take its arguments: {error}"
        raise StructureError(said) from error
    if differ(found, value(node)):
        raise StructureError(f"{node.format_node()} gives {found}, noted is {value(node)}")


def has_unbacked(tensors: list[Tensor]) -> bool:
    """Whether a size depends on data."""
    symbols = torch.fx.experimental.symbolic_shapes.free_unbacked_symbols
    return any(symbols(tensor) for tensor in tensors)


def differ(found: Any, noted: Any) -> bool:
    """Whether values differ in number, kind, dtype, device or sizes.

    Strides are not compared: what reads a value of another layout keeps those that it was noted
    with. Two symbolic sizes that shape rules do not tell apart may be equal by what a pass knows.
    """
    ones, others = (torch.utils._pytree.tree_leaves(values) for values in (found, noted))
    return len(ones) != len(others) or any(map(one_differs, ones, others))


def one_differs(found: Any, noted: Any) -> bool:
    """`differ` of a single value."""
    if not isinstance(found, Tensor) or not isinstance(noted, Tensor):
        return isinstance(found, Tensor) != isinstance(noted, Tensor)
    if (found.dtype, found.device, found.dim()) != (noted.dtype, noted.device, noted.dim()):
        return True
    sizes = zip(found.shape, noted.shape, strict=True)
    return any(one is not other and prove(one != other) for one, other in sizes)
