"""Fake values get the strides that eager will give; those that cannot be told are marked."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.eager_strides import eager_strides, has_iterator
from ascend_passes.ir.graph import (
    agree,
    mark_unproven,
    operator_name,
    same_sizes,
    same_strides,
    unproven,
    value,
)
from ascend_passes.ir.trace import fake_mode_of, faking

aten = torch.ops.aten
FORGETS = frozenset({aten.mm.default, aten.bmm.default, aten.addmm.default, aten._int_mm.default})
"""Operators whose result lies in one way, however their tensors lie."""
NAMES_ANEW = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
"""Tags of operators that give their sizes new symbols each time."""


def settle_graph(graph: fx.Graph) -> None:
    """Correct the fake values of a graph, in place, from the inputs on.

    A value whose strides are wrong is replaced, and what is computed from it is computed again.
    """
    changed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        anew = changed and not changed.isdisjoint(node.all_input_nodes) and computed_anew(node)
        if settle_call(node) or anew:
            changed.add(node)


def settle_call(node: fx.Node) -> bool:
    """Give the value of a call the strides that eager gives it; True where it had others.

    Where these depend on sizes that are not known, or rest on a value of which that is so, the
    value is marked.
    """
    fake, given = value(node), parts_of(node)
    doubt = next(filter(None, map(unproven, given)), None)
    if doubt is not None and node.target not in FORGETS:
        mark_unproven(fake, doubt)
        return False
    if len(given) < 2 or not has_iterator(node.target):
        return False
    tensors = [part for part in given if isinstance(part, Tensor)]
    if len(tensors) < 2 or not isinstance(fake, Tensor):
        return False
    strides = eager_strides(node.target, fake, tensors)
    if strides is None:
        mark_unproven(fake, operator_name(node))
        return False
    if agree(fake.shape, fake.stride(), strides):
        return False
    node.meta["val"] = with_strides(fake, strides)
    return True


def parts_of(node: fx.Node) -> list[Any]:
    """The values of what a call takes, in its own order; several results count each."""
    parts: list[Any] = []
    for given in node.all_input_nodes:
        fake = value(given)
        if isinstance(fake, (list, tuple)):
            parts += fake
        else:
            parts.append(fake)
    return parts


def with_strides(fake: Tensor, strides: tuple[Any, ...]) -> Tensor:
    """A fake value like another, with other strides."""
    with faking(fake_mode_of([fake])):
        return torch.empty_strided(fake.shape, strides, dtype=fake.dtype, device=fake.device)


def computed_anew(node: fx.Node) -> bool:
    """Compute a call's value from those of its tensors; True where it then lies in another way.

    What cannot be computed, or would name its sizes anew, keeps its value.
    """
    if not may_compute(node):
        return False
    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    old = value(node)
    target: Any = node.target
    try:
        with faking(fake_mode_of([part for part in parts_of(node) if isinstance(part, Tensor)])):
            new = target(*args, **kwargs)
    except Exception:  # a view that eager would refuse as well, when it runs
        return False
    if not lies_differently(old, new):
        return False
    node.meta["val"] = new
    return True


def may_compute(node: fx.Node) -> bool:
    """Whether a call can be computed again without a new fact about sizes."""
    if node.target is operator.getitem:
        return True
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and not any(
        tag in target.tags for tag in NAMES_ANEW
    )


def lies_differently(old: Any, new: Any) -> bool:
    """Whether values of the same sizes lie differently."""
    pairs = list(
        zip(*(torch.utils._pytree.tree_leaves(values) for values in (old, new)), strict=False)
    )
    tensors = [(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)]
    alike = all(a.dtype == b.dtype and same_sizes(a.shape, b.shape) for a, b in tensors)
    return alike and not all(same_strides(a, b) for a, b in tensors)
