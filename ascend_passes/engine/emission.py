"""What a rule puts in the place of a match: the replacement traced for it, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.engine.found import Found
from ascend_passes.engine.limits import broken_limit
from ascend_passes.engine.match import Match
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.rule import Rule, conditions, refusal, replacement_arguments
from ascend_passes.engine.template import output_nodes, refuse_constants
from ascend_passes.ir import trace
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.graph import Context, mark_unproven, same_sizes, same_strides, unproven, value
from ascend_passes.ir.settle import settle_graph
from ascend_passes.ir.wording import short


@dataclass(frozen=True, eq=False)
class Emission:
    """The replacement's graph for inputs of one kind."""

    graph: fx.Graph
    outputs: tuple[fx.Node, ...]


def emit(context: Context, found: Match) -> Emission | str:
    """Check the conditions, trace the replacement and check its operators' limits and its
    results."""
    rule = found.template.rule
    fakes = {item: value(node) for item, node in found.inputs.items()}
    scalars = {**found.template.spelling.constants, **found.scalars}
    for condition in conditions(rule, fakes, found.sizes, scalars):
        reason = refusal(condition)
        if reason is not None:
            return reason
    return checked_emission(context, found, traced_replacement(rule, fakes, scalars))


def checked_emission(context: Context, found: Found, graph: fx.Graph) -> Emission | str:
    """What a traced replacement puts in, or the limit or the result that forbids it."""
    settle_graph(graph)
    reason = refuse_limits(context, graph)
    if reason is not None:
        return reason
    outputs = tuple(output_nodes(graph))
    return refuse_results(found, outputs) or Emission(graph, outputs)


def traced_replacement(
    rule: Rule, fakes: Mapping[str, Any], scalars: Mapping[str, Any]
) -> fx.Graph:
    """The replacement's graph; each placeholder's `meta["input"]` is the name of its input.

    Raises:
        RuleError: it makes a tensor of numbers.
    """
    given = replacement_arguments(rule, fakes, scalars)
    tensors = {item: fake for item, fake in given.items() if isinstance(fake, Tensor)}
    others = {item: number for item, number in given.items() if item not in tensors}
    graph = traced_on(
        lambda *values: rule.replacement(**dict(zip(tensors, values, strict=True)), **others),
        tensors,
    )
    refuse_constants(graph, f"{rule.name}.replacement")
    return graph


def traced_on(function: Callable[..., Any], tensors: Mapping[str, Tensor]) -> fx.Graph:
    """The graph of a function of the tensors, in their order; each placeholder's `meta["input"]` is
    the name of its tensor."""
    graph = trace.trace(function, list(tensors.values()), guards=False).graph
    for node, item in zip(list(graph.nodes), tensors, strict=False):
        node.meta["input"] = item
        doubt = unproven(tensors[item])
        if doubt is not None:
            mark_unproven(value(node), doubt)
    remove_dead(graph)
    return graph


def kind_of(fake: Any) -> Any:
    """What two tensors must share to be treated alike: dtype, device, sizes and strides, and
    whether these are certain."""
    if not isinstance(fake, Tensor):
        return str(fake)
    sizes = tuple(
        size if isinstance(size, int) else size.node.expr for size in (*fake.shape, *fake.stride())
    )
    return fake.dtype, fake.device, sizes, unproven(fake)


def refuse_limits(context: Context, graph: fx.Graph) -> str | None:
    """The first documented limit of an NPU operator that the replacement would break."""
    for node in graph.nodes:
        target = node.target
        if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
            continue
        operator_entry = npu.operator_of(target)
        if operator_entry is None:
            continue
        given = named_arguments(node)  # as the operator will see them
        reason = broken_limit(operator_entry.name, given, context.options.soc)
        if reason is not None:
            return reason
    return None


def refuse_results(found: Found, outputs: Sequence[fx.Node]) -> str | None:
    """How the replacement's results differ from what the graph's users rely on."""
    for old, new in zip(found.outputs, outputs, strict=True):
        if old is None:
            continue
        a, b = value(old), value(new)
        if a.dtype != b.dtype:
            return f"the result would be {short(b.dtype)} instead of {short(a.dtype)}"
        if not same_sizes(a.shape, b.shape):
            return f"the result would have shape {tuple(b.shape)} instead of {tuple(a.shape)}"
        doubt = unproven(a) or unproven(b)
        if doubt is not None:
            return f"the strides of {doubt}'s result depend on sizes that are not known"
        if not same_strides(a, b):
            return f"the result would have strides {b.stride()} instead of {a.stride()}"
    return None
