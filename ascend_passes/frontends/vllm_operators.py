"""vLLM's own operators as NPU operators: norms, quantization and rotary embedding.

Half of them are mutating operators that write into a tensor made for them; AOTAutograd wraps those
in `auto_functionalized` and `auto_functionalized_v2`, where a rule could not see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site, Translation, refuse_unless
from ascend_passes.frontends.vllm_translations import TRANSLATIONS
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.graph import (
    Context,
    is_call,
    operator_name,
    place,
    same_size,
    same_sizes,
    value,
)
from ascend_passes.ir.in_place import (
    FUNCTIONALIZED,
    Call,
    View,
    read_call,
)
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten


@dataclass(frozen=True)
class Columns:
    """Columns `start` to `stop` of a written tensor [T, W], or a whole tensor of any rank."""

    base: int
    start: int = 0
    stop: int | None = None
    """None for the whole tensor."""


def vllm_operators(graph: fx.Graph, context: Context) -> Report:
    """Replace vLLM's operators in place; `fired` counts each by its vLLM name."""
    return translate(graph, context, TRANSLATIONS, "vllm_operators")


def translate(
    graph: fx.Graph, context: Context, table: Mapping[str, Translation], rule: str
) -> Report:
    """Replace the operators that a table names, in place; `fired` counts each by its name.

    A translation may refuse a call, which then stays; the report has the reason.
    """
    fired: dict[str, int] = {}
    misses: list[Miss] = []
    for node in list(graph.nodes):
        name = wrapped_name(node)
        if name not in table:
            continue
        plain = name.replace("::", "_").lstrip("_")
        last = node.prev
        try:
            translate_call(Site(node, context.options.soc, rule), table[name])
            fired[plain] = fired.get(plain, 0) + 1
        except Refused as refusal:
            erase_between(last, node)
            misses.append(Miss(plain, node.name, place(node), str(refusal), complete=True))
    remove_dead(graph)
    return Report(fired=fired, misses=tuple(misses))


def wrapped_name(node: fx.Node) -> str:
    """The operator that a node calls, itself or inside a functional form; "" for other nodes."""
    if node.target in FUNCTIONALIZED:
        wrapped: Any = node.args[0]
        return str(wrapped._schema.name) if hasattr(wrapped, "_schema") else ""
    return operator_name(node) if node.op == "call_function" else ""


def erase_between(first: fx.Node, last: fx.Node) -> None:
    """Remove the nodes that a refused translation had built, newest first."""
    while last.prev is not first:
        last.graph.erase_node(last.prev)


def translate_call(site: Site, translate: Translation) -> None:
    """Replace one call, wrapped or not; the graph gains nothing where it raises `Refused`."""
    node = site.node
    if node.target not in FUNCTIONALIZED:
        hand_over(node, translate(site, named_arguments(node)))
        return
    call = read_call(node)
    if call is None:
        raise Refused("it writes a list of tensors")
    written = {
        name: columns(item, call) for name, item in call.arguments.items() if isinstance(item, View)
    }
    given = dict(call.arguments)
    given.update({name: old_state(site, part, call) for name, part in written.items()})
    results = translate(site, given)
    states = {index: new_state(site, call, written, results, index) for index in call.results}
    for index, readers in call.results.items():
        for reader in readers:
            if index >= call.first_result:
                resolve_columns(reader, index - call.first_result, call, written, results)
            reader.replace_all_uses_with(states[index])
    for reader in list(node.users):
        node.graph.erase_node(reader)
    node.graph.erase_node(node)


def columns(view: View, call: Call) -> Columns:
    """The part of its base that an argument is.

    Raises:
        Refused: a part that is neither the whole tensor nor some of its columns.
    """
    tensor: Tensor = value(call.bases[view.base])
    if view.target is None:
        return Columns(view.base)
    if view.target is aten.slice.Tensor and tensor.dim() == 2 and view.arguments[0] == 1:
        return Columns(view.base, *view.arguments[1:])
    refuse_unless(
        view.target is aten.as_strided.default and tensor.is_contiguous(),
        "it writes a part of a tensor that is not a range of columns",
    )
    size, stride, offset = view.arguments
    size, stride = ([value(s) if isinstance(s, fx.Node) else s for s in p] for p in (size, stride))
    if offset == 0 and same_sizes(stride, dense(size)) and same_size(count(size), tensor.numel()):
        return Columns(view.base)
    fits = tensor.dim() == len(size) == 2 and same_sizes(stride, (tensor.shape[1], 1))
    fits = fits and same_size(size[0], tensor.shape[0])
    refuse_unless(
        fits and all(isinstance(number, int) for number in (offset, size[1], tensor.shape[1])),
        "it writes a part of a tensor that is not a range of columns",
    )
    return Columns(view.base, offset, offset + size[1])


def count(sizes: Any) -> Any:
    """The number of elements of a tensor with these sizes."""
    total = 1
    for size in sizes:
        total = total * size
    return total


def dense(sizes: Any) -> list[Any]:
    """The strides of a contiguous tensor with these sizes."""
    return [count(sizes[index + 1 :]) for index in range(len(sizes))]


def old_state(site: Site, part: Columns, call: Call) -> fx.Node:
    """What the operator finds in the part of a tensor that it writes."""
    base = call.bases[part.base]
    if part.stop is None:
        return base
    return site.call(aten.slice.Tensor, base, 1, part.start, part.stop, 1)


def new_state(
    site: Site,
    call: Call,
    written: Mapping[str, Columns],
    results: Mapping[str, fx.Node],
    index: int,
) -> fx.Node:
    """The node that stands for one result of a wrapped call.

    Raises:
        Refused: the result has another shape or dtype than what it stands for.
    """
    if index < call.first_result:
        return results[str(index)]
    base = call.bases[index - call.first_result]
    parts = sorted(
        (
            (part, state_after(name, results))
            for name, part in written.items()
            if part.base == index - call.first_result
        ),
        key=lambda pair: pair[0].start,
    )
    if parts[0][0].stop is None:
        return same_kind(base, parts[0][1])
    pieces, start, width = [], 0, value(base).shape[1]
    for part, result in parts:
        if part.start > start:
            pieces.append(site.call(aten.slice.Tensor, base, 1, start, part.start, 1))
        pieces.append(result)
        assert part.stop is not None
        start = part.stop
    if start < width:
        pieces.append(site.call(aten.slice.Tensor, base, 1, start, width, 1))
    return same_kind(base, site.call(aten.cat.default, pieces, 1))


def same_kind(old: fx.Node, new: fx.Node) -> fx.Node:
    """`new`, which must have the shape and dtype of `old`; raises `Refused` otherwise."""
    one, other = value(old), value(new)
    refuse_unless(
        one.dtype == other.dtype and same_sizes(one.shape, other.shape),
        f"it writes {list(one.shape)} of {one.dtype}, "
        f"the operator gives {list(other.shape)} of {other.dtype}",
    )
    return new


def state_after(name: str, results: Mapping[str, fx.Node]) -> fx.Node:
    """The new state of a written argument; in-place forms of norms write what they return."""
    returned = {"x": "0", "x_residual": "1"}
    return results[name] if name in results else results[returned[name]]


def resolve_columns(
    reader: fx.Node,
    base: int,
    call: Call,
    written: Mapping[str, Columns],
    results: Mapping[str, fx.Node],
) -> None:
    """Let slices of a new state that are one part of it take that part, others the old state."""
    parts = [
        (part, state_after(name, results)) for name, part in written.items() if part.base == base
    ]
    if any(part.stop is None for part, _ in parts):
        return
    for user in list(reader.users):
        if not is_call(user, aten.slice.Tensor) or user.args[1] != 1 or user.args[4] != 1:
            continue
        start, stop = user.args[2], user.args[3]
        for part, result in parts:
            if (part.start, part.stop) == (start, stop):
                user.replace_all_uses_with(result)
                user.graph.erase_node(user)
                break
        else:
            if all(stop <= part.start or start >= part.stop for part, _ in parts):  # type: ignore[operator]
                user.replace_input_with(reader, call.bases[base])


def hand_over(node: fx.Node, results: Mapping[str, fx.Node]) -> None:
    """Let the results stand for a call that is not wrapped."""
    if not isinstance(value(node), (tuple, list)):
        node.replace_all_uses_with(results["0"])
        node.graph.erase_node(node)
        return
    for reader in list(node.users):
        reader.replace_all_uses_with(results[str(reader.args[1])])
        node.graph.erase_node(reader)
    node.graph.erase_node(node)
