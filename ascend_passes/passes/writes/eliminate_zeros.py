"""Zeros that are overwritten before they are read become uninitialized memory.

Sums and products with zeros and ones go as well, where that changes no bit.
`x + 0.0` stays: it turns -0.0 into 0.0. `0.0 * x` stays: it is NaN where x is NaN or infinite, and
no floating-point operator is free of NaN for every input, softmax and sigmoid included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.forms import same_layout
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import Context, place, same_sizes, value
from ascend_passes.ir.sharing import may_replace, memory, size_shows
from ascend_passes.passes.writes.overwritten import unwritten
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten
EMPTY: Mapping[Any, Any] = MappingProxyType(
    {
        aten.zeros.default: aten.empty.memory_format,
        aten.zeros_like.default: aten.empty_like.default,
        aten.new_zeros.default: aten.new_empty.default,
        aten.full.default: aten.empty.memory_format,
        aten.full_like.default: aten.empty_like.default,
        aten.new_full.default: aten.new_empty.default,
    }
)
"""Operator that fills with a number -> the one that leaves the memory as it is."""
FILL_ARGUMENT: Mapping[Any, int] = MappingProxyType(
    {aten.full.default: 1, aten.full_like.default: 1, aten.new_full.default: 2}
)
"""Operators with the number among their arguments -> its position."""
ONES = (aten.ones.default, aten.ones_like.default, aten.new_ones.default)
RULE = "eliminate_zeros"


def eliminate_zeros(graph: fx.Graph, context: Context) -> Report:
    """Rewrite what can be proved; every zero-filled buffer and identity that stays is a miss."""
    fired = 0
    misses: list[Miss] = []
    for node in list(graph.nodes):
        if node.target in IDENTITIES and not node._erased:
            outcome = IDENTITIES[node.target](node)
        elif filled_with(node) == 0 and node.users:
            outcome = empty_instead(node)
        else:
            continue
        if isinstance(outcome, str):
            misses.append(Miss(RULE, node.name, place(node), outcome))
        elif outcome is not None:
            fired += 1
            node.replace_all_uses_with(outcome)
    remove_dead(graph)
    return Report(fired={RULE: fired}, misses=tuple(misses))


def filled_with(node: Any) -> Any:
    """The number that a node fills its result with; None for other nodes."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    if node.target in ONES:
        return 1
    if node.target in FILL_ARGUMENT:
        fill = node.args[FILL_ARGUMENT[node.target]]
        return fill if isinstance(fill, (int, float)) else None
    return 0 if node.target in EMPTY else None


def empty_instead(node: fx.Node) -> fx.Node | str:
    """The uninitialized tensor for a zero-filled one, or why the zeros matter."""
    reason = unwritten(node)
    if reason is not None:
        return reason
    args = list(node.args)
    if node.target in FILL_ARGUMENT:
        del args[FILL_ARGUMENT[node.target]]
    keywords = {**node.kwargs, "dtype": value(node).dtype}
    with Editor(node.graph, RULE).at(node) as edit:
        return edit.same(EMPTY[node.target], *args, **keywords)


def number_of(argument: Any) -> Any:
    """The number that an operand is, or that it is filled with; None for other operands."""
    if isinstance(argument, (int, float)) and not isinstance(argument, bool):
        return argument
    return filled_with(argument)


def keeps(node: fx.Node, operand: Any) -> bool:
    """Whether an operand has the shape, dtype and device of the result."""
    if not isinstance(operand, fx.Node) or not isinstance(value(operand), Tensor):
        return False
    a, b = value(node), value(operand)
    return a.dtype == b.dtype and a.device == b.device and same_sizes(a.shape, b.shape)


def operand_instead(node: fx.Node, operand: Any) -> fx.Node | None:
    """The operand itself, where the graph may use it as it uses the result.

    Not where the size of the result's memory shows: the operand's may be larger.
    """
    if not keeps(node, operand) or not same_layout(node, operand) or size_shows(memory(node)):
        return None
    return operand if may_replace(node, operand) else None


def is_integer(node: fx.Node) -> bool:
    """Whether a node's value has no NaN, no infinity and no -0.0, whatever its inputs."""
    return not (value(node).dtype.is_floating_point or value(node).dtype.is_complex)


def is_complex(node: fx.Node) -> bool:
    """Whether a node's value is complex: a product with 1 has 0 * infinity in it, a difference of
    parts a zero of another sign."""
    return bool(value(node).dtype.is_complex)


def add(node: fx.Node) -> fx.Node | str | None:
    """`x + 0` for integers."""
    left, right = node.args[:2]
    scaled = node.kwargs.get("alpha", 1) != 1  # the right operand is
    for operand, other in ((left, right), *(() if scaled else ((right, left),))):
        if number_of(other) != 0 or not keeps(node, operand):
            continue
        if not is_integer(node):
            return "x + 0.0 is 0.0 where x is -0.0, so it is not x"
        return operand_instead(node, operand)
    return None


def subtract(node: fx.Node) -> fx.Node | str | None:
    """`x - 0`, also for -0.0; with a factor on the zero for integers only."""
    operand, other = node.args[:2]
    if number_of(other) != 0 or not keeps(node, operand) or is_complex(node):
        return None
    if not is_integer(node) and (
        node.kwargs.get("alpha", 1) != 1 or negative_zero(number_of(other))
    ):
        return "x - alpha * 0.0 may add 0.0, which changes the sign of -0.0"
    return operand_instead(node, operand)


def negative_zero(number: Any) -> bool:
    """Whether a zero has the negative sign."""
    return str(number).startswith("-")


def multiply(node: fx.Node) -> fx.Node | str | None:
    """`x * 1`, and `x * 0` for integers."""
    for operand, other in (node.args[:2], node.args[1::-1]):
        number = number_of(other)
        if number == 1 and keeps(node, operand) and not is_complex(node):
            return operand_instead(node, operand)
        if number == 0 and isinstance(operand, fx.Node):
            if not is_integer(node):
                return "0.0 * x is NaN where x is infinite or NaN, and -0.0 where x is negative"
            return zeros_instead(node)
    return None


def divide(node: fx.Node) -> fx.Node | str | None:
    """`x / 1`."""
    operand, other = node.args[:2]
    if number_of(other) != 1 or not keeps(node, operand) or node.kwargs or is_complex(node):
        return None
    return operand_instead(node, operand)


def zeros_instead(node: fx.Node) -> fx.Node | None:
    """Zeros that depend on the operand's shape alone."""
    source = next((n for n in node.all_input_nodes if keeps(node, n)), None)
    if source is None:
        return None
    with Editor(node.graph, RULE).at(node) as edit:
        return edit.same(aten.zeros_like.default, source, dtype=value(node).dtype)


IDENTITIES: Mapping[Any, Callable[[fx.Node], fx.Node | str | None]] = MappingProxyType(
    {
        aten.add.Tensor: add,
        aten.sub.Tensor: subtract,
        aten.mul.Tensor: multiply,
        aten.div.Tensor: divide,
    }
)
