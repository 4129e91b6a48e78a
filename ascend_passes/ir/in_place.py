"""Functional calls and the in-place calls that compute the same: what `reinplace` may exchange.

Four functional forms come out of AOTAutograd. `aten.index_copy` has `aten.index_copy_`; a scatter
such as `slice_scatter` is a `copy_` into a view; `auto_functionalized(_v2)` wraps a mutating custom
operator; and `x_functional` beside a mutating `x` returns what `x` would write.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from ascend_passes.ir.arguments import named_arguments, schema_order
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import value
from ascend_passes.ir.sharing import aliases
from ascend_passes.ir.trace import fake_mode_of, faking

aten = torch.ops.aten
AUTHOR = "reinplace"
AUTO_FUNCTIONALIZED = torch.ops.higher_order.auto_functionalized
AUTO_FUNCTIONALIZED_V2 = torch.ops.higher_order.auto_functionalized_v2
FUNCTIONALIZED = (AUTO_FUNCTIONALIZED, AUTO_FUNCTIONALIZED_V2)
"""What wraps a call that writes its arguments."""
SCATTERS: Mapping[Any, OpOverload] = MappingProxyType(
    {
        aten.slice_scatter.default: aten.slice.Tensor,
        aten.select_scatter.default: aten.select.int,
        aten.diagonal_scatter.default: aten.diagonal.default,
        aten.as_strided_scatter.default: aten.as_strided.default,
    }
)
"""Scatter -> the view that it writes; its arguments are the scatter's without the source."""


@dataclass(frozen=True)
class View:
    """The part of a written tensor that an operator of `auto_functionalized_v2` gets."""

    base: int
    """Index into `Call.bases`."""
    target: OpOverload | None = None
    """The view operator; None where the operator gets the tensor itself."""
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Call:
    """A mutating operator inside a functional form."""

    operator: OpOverload
    arguments: Mapping[str, Any]
    """Argument name -> value; a `View` where the operator writes."""
    bases: tuple[fx.Node, ...]
    """The tensors that are written, in their old state."""
    first_result: int
    """Index of the first new state among the functional form's results."""
    results: Mapping[int, tuple[fx.Node, ...]] = field(default_factory=dict)
    """Result index -> the nodes that read it."""


@functools.cache
def in_place_overload(target: Any) -> OpOverload | None:
    """`aten.index_copy_.default` for `aten.index_copy.default`: it writes its first argument.

    None where there is none, where it changes the tensor's shape, or where it draws random numbers.
    """
    if not isinstance(target, OpOverload) or target._schema.is_mutable:
        return None
    namespace, name = target._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name + "_", None)
    if packet is None or target._overloadname not in packet.overloads():
        return None
    found: OpOverload = getattr(packet, target._overloadname)
    if torch.Tag.inplace_view in found.tags or torch.Tag.nondeterministic_seeded in found.tags:
        return None
    same = [a.name for a in found._schema.arguments] == [a.name for a in target._schema.arguments]
    return found if same and written_names(found)[:1] == first_name(found) else None


def first_name(target: OpOverload) -> tuple[str, ...]:
    """The name of an operator's first argument."""
    return tuple(entry.name for entry in target._schema.arguments[:1])


def written_names(target: OpOverload) -> tuple[str, ...]:
    """The arguments that an operator writes by its schema."""
    return tuple(
        entry.name
        for entry in target._schema.arguments
        if entry.alias_info is not None and entry.alias_info.is_write
    )


@functools.cache
def mutating_overload(target: Any) -> OpOverload | None:
    """`npu.x` for `npu.x_functional`, whose results are those of `x` and then what `x` writes."""
    if not isinstance(target, OpOverload) or not target._schema.name.endswith("_functional"):
        return None
    namespace, name = target._schema.name.removesuffix("_functional").split("::")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if packet is None or target._overloadname not in packet.overloads():
        return None
    found: OpOverload = getattr(packet, target._overloadname)
    names = written_names(found)
    same = [a.name for a in found._schema.arguments] == [a.name for a in target._schema.arguments]
    counts = len(found._schema.returns) + len(names) == len(target._schema.returns)
    return found if same and names and counts else None


def read_call(node: fx.Node) -> Call | None:
    """The mutating call inside a functional form; None for others and for written tensor lists."""
    if node.op != "call_function":
        return None
    if node.target is AUTO_FUNCTIONALIZED_V2:
        return read_second_version(node)
    if node.target is AUTO_FUNCTIONALIZED:
        mutating = node.args[0]
        padding = 1  # the wrapper returns None in front where the operator returns nothing
        given: dict[str, Any] = dict(node.kwargs)
    else:
        mutating, padding = mutating_overload(node.target), 0
        given = named_arguments(node)
    if not isinstance(mutating, OpOverload):
        return None
    names = [name for name in written_names(mutating) if given.get(name) is not None]
    if len(names) != len(written_names(mutating)):
        return None
    bases: tuple[Any, ...] = tuple(given[name] for name in names)
    if not all(isinstance(base, fx.Node) for base in bases):
        return None
    given.update({name: View(index) for index, name in enumerate(names)})
    first = max(padding, len(mutating._schema.returns))
    return Call(mutating, given, bases, first, readers(node))


def read_second_version(node: fx.Node) -> Call | None:
    """`read_call` for `auto_functionalized_v2`, which names each written part of its bases."""
    mutating, given = node.args[0], dict(node.kwargs)
    bases = given.pop("_all_bases", None)
    if not isinstance(mutating, OpOverload) or not bases:
        return None
    arguments: dict[str, Any] = {}
    for name in written_names(mutating):
        if f"_{name}_base_index" not in given:
            return None  # a list of tensors
        arguments[name] = read_view(given, f"_{name}")
    plain = {entry.name for entry in mutating._schema.arguments}
    arguments |= {name: item for name, item in given.items() if name in plain}
    first = max(1, len(mutating._schema.returns))
    return Call(mutating, arguments, tuple(bases), first, readers(node))  # type: ignore[arg-type]


def read_view(given: Mapping[str, Any], prefix: str) -> View | None:
    """The part of a base that an argument stands for; None where the argument is None."""
    base = given[f"{prefix}_base_index"]
    if base is None:
        return None
    if f"{prefix}_storage_offset" in given:
        parts = ("size", "stride", "storage_offset")
        return View(
            base, aten.as_strided.default, tuple(given[f"{prefix}_{part}"] for part in parts)
        )
    if f"{prefix}_slice_dim" in given:
        parts = ("slice_dim", "slice_start", "slice_end")
        return View(base, aten.slice.Tensor, tuple(given[f"{prefix}_{part}"] for part in parts))
    return View(base)


def readers(node: fx.Node) -> dict[int, tuple[fx.Node, ...]]:
    """Result index -> the nodes that take this result of a call with several."""
    if not isinstance(value(node), (tuple, list)) and node.target not in FUNCTIONALIZED:
        return {0: (node,)}
    found: dict[int, tuple[fx.Node, ...]] = {}
    for user in node.users:
        if user.target is operator.getitem:
            index = user.args[1]
            found[index] = (*found.get(index, ()), user)  # type: ignore[index, arg-type]
    return found


def put_in_place(node: fx.Node, call: Call, bases: tuple[fx.Node, ...]) -> None:
    """Put the mutating operator itself in the place of its functional form; `bases` are written."""
    graph = node.graph
    with Editor(graph, AUTHOR).at(node) as edit:
        given = {name: built_argument(edit, item, bases) for name, item in call.arguments.items()}
        positional, keywords = schema_order(call.operator, given)
        returns = len(call.operator._schema.returns)
        fakes = value(node) if isinstance(value(node), (tuple, list)) and returns else (None,)
        own_value = fakes[0] if returns <= 1 else tuple(fakes[:returns])
        direct = edit.known(own_value, call.operator, *positional, **keywords)
        own = list(own_results(edit, direct, call, given))
    moved = [result for results in call.results.values() for result in results]
    views = aliases(moved) - set(moved)
    for index, results in call.results.items():
        new = bases[index - call.first_result] if index >= call.first_result else own[index]
        for result in results:
            result.replace_all_uses_with(new)
    for results in call.results.values():
        for result in results:
            graph.erase_node(result)
    if node not in moved:
        graph.erase_node(node)
    refresh_views(views)


def built_argument(edit: Editor, item: Any, bases: tuple[fx.Node, ...]) -> Any:
    """An argument of the mutating call: a view of a base where it writes."""
    if not isinstance(item, View):
        return item
    base = bases[item.base]
    if item.target is None:
        return base
    return edit.call(item.target, base, *item.arguments)


def fake_view(target: OpOverload, source: fx.Node, arguments: tuple[Any, ...]) -> torch.Tensor:
    """The fake value of a view that is not in the graph."""
    known = fx.node.map_arg(arguments, value)
    with faking(fake_mode_of([value(source)])):
        fake: torch.Tensor = target(value(source), *known)
    return fake


def refresh_views(views: Iterable[fx.Node]) -> None:
    """Compute the fake values of views again whose source now lies in other memory."""
    for node in sorted(views):
        if node.op == "call_function" and isinstance(node.target, OpOverload):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
            with faking(fake_mode_of([value(node)])):
                node.meta["val"] = node.target(*args, **kwargs)


def own_results(
    edit: Editor, direct: fx.Node, call: Call, given: Mapping[str, Any]
) -> Iterator[fx.Node]:
    """The nodes for the operator's own results; one that is a written argument is that argument."""
    returns = call.operator._schema.returns
    if not returns:
        yield direct
        return
    for index, entry in enumerate(returns):
        if entry.alias_info is not None:
            yield given[written_names(call.operator)[index]]
        elif len(returns) == 1:
            yield direct
        else:
            yield edit.item(direct, index)
