"""Writes that AOTAutograd made functional happen in place again, so that no KV cache is copied.

A functional write copies its whole input; for a cache this costs more than all fusions gain. A
write is done in place where nobody reads the old value afterwards, where no other argument shares
the memory, and where the graph ends by storing a new value into the same input anyway.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import (
    Context,
    base,
    first,
    is_call,
    is_view,
    operator_name,
    place,
    same_size,
    same_sizes,
    same_strides,
    value,
    writes_possible,
    written,
)
from ascend_passes.ir.in_place import (
    SCATTERS,
    Call,
    emit,
    fake_view,
    in_place_overload,
    origin,
    read_call,
    refresh,
    view_node,
)
from ascend_passes.ir.proof import prove
from ascend_passes.ir.sharing import aliases, reads_absolute_offset
from ascend_passes.ir.traits import traits_of
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten


@dataclass(frozen=True)
class Write:
    """A functional write that could happen in place."""

    node: fx.Node
    target: fx.Node
    """The value that is written, in its old state."""
    results: tuple[fx.Node, ...]
    """The nodes that hold its new state."""
    absorbed: tuple[fx.Node, ...] = ()
    """Scatters that only put the new state of a view back into the tensor it is a view of."""


def reinplace(graph: fx.Graph, context: Context) -> Report:
    """Make cache writes in place; a refused one stays functional and is a miss with its reason."""
    stored = [node for node in graph.nodes if is_store(node)]
    candidates = {node for store in stored for node in path_to_input(store)}
    misses: list[Miss] = []
    done: Counter[str] = Counter()
    kept: set[fx.Node] = set()
    gone: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node in gone:
            continue
        call = read_call(node)
        if call is not None:
            reasons = rewrite_call(node, call)
        elif node in candidates and worthwhile(node, kept):
            write = with_scatters(Write(node, first(node), (node,)))
            refused = reason_against(write)
            reasons = [refused]
            if refused is None:
                gone.update(write.absorbed)
                rewrite_operator(write)
        else:
            continue
        name = call.operator._schema.name if call is not None else operator_name(node)
        done[name] += reasons.count(None)
        for reason in filter(None, reasons):
            misses.append(Miss("reinplace", node.name, place(node), reason, complete=True))
            kept.add(node)
    for store in stored:
        drop_store(store)
    total = sum(done.values())
    names = ", ".join(f"{count} {name}" for name, count in sorted(done.items()) if count)
    notes = (f"{total} writes happen in place: {names}",) if total else ()
    return Report(fired={"reinplace": total}, misses=tuple(misses), notes=notes)


def is_store(node: fx.Node) -> bool:
    """Whether a node stores a new value into an input of the graph."""
    return is_call(node, aten.copy_.default) and first(node).op == "placeholder"


def path_to_input(store: fx.Node) -> Iterator[fx.Node]:
    """The functional writes between the stored value and the input that it is stored into."""
    stack, seen = [store.args[1]], set()
    while stack:
        node = stack.pop()
        if not isinstance(node, fx.Node) or node.op != "call_function" or node in seen:
            continue
        seen.add(node)
        if node.target in SCATTERS:
            yield node
            stack += node.args[:2]
        elif in_place_overload(node.target) is not None and isinstance(node.args[0], fx.Node):
            yield node
            stack.append(node.args[0])
        elif is_view(node):
            stack.append(node.args[0])
        elif node.target is operator.getitem:
            call = read_call(first(node))
            stack += list(call.bases) if call is not None else []


def worthwhile(node: fx.Node, kept: set[fx.Node]) -> bool:
    """Whether the write goes to an input's memory, or to the copy that a refused write made."""
    owner = base(first(node))
    return owner.op == "placeholder" or owner in kept


def reason_against(write: Write) -> str | None:
    """Why a write must stay functional, or None."""
    owner = base(write.target)
    new = aliases((*write.results, *write.absorbed))
    old = aliases([owner]) - new
    return (
        refused_owner(owner)
        or refused_place(write, owner)
        or refused_arguments(write, old)
        or refused_layout(write, new)
        or refused_readers(write, owner, old)
        or refused_results(owner, new)
    )


def refused_owner(owner: fx.Node) -> str | None:
    """Whether the memory may be written at all."""
    if owner.op == "placeholder":
        if not stores(owner):
            return "the graph returns the new value and leaves its input as it was"
        if any(shares_storage(owner, other) for other in placeholders(owner.graph)):
            return "another input shares the memory"
        return None
    source = first(owner) if owner.target is operator.getitem else owner
    if source.op != "call_function":
        return "a constant of the graph must not be written"
    if writes_possible(source.target) or traits_of(source.target).returns_input:
        return f"its memory comes from {operator_name(source)}, which may hand back its argument"
    return None


def refused_place(write: Write, owner: fx.Node) -> str | None:
    """Whether the write could reach memory beside an input's elements, which the graph never
    stores: only `as_strided` leads there."""
    node, region = write.node, value(write.target)
    strided = node.target is aten.as_strided_scatter.default
    if strided:
        region = fake_view(aten.as_strided.default, first(node), node.args[2:])
    source = write.target
    while source is not owner:
        strided = strided or source.target is aten.as_strided.default
        source = first(source)
    if owner.op != "placeholder" or not strided or lies_within(region, value(owner)):
        return None
    return "as_strided may lead to memory beside the input's elements"


def lies_within(region: Tensor, whole: Tensor) -> bool:
    """Whether a tensor addresses nothing in its storage but elements of `whole`."""
    start, end = region.storage_offset(), whole.storage_offset() + whole.numel()
    steps = zip(region.shape, region.stride(), strict=True)
    last = start + sum((size - 1) * stride for size, stride in steps)
    dense = same_strides(whole, torch.empty_like(whole))
    return dense and prove(whole.storage_offset() <= start) and prove(last < end)


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    """The inputs of a graph."""
    return graph.find_nodes(op="placeholder")


def stores(owner: fx.Node) -> list[fx.Node]:
    """The final stores into an input."""
    return [user for user in owner.users if is_store(user) and user.args[0] is owner]


def shares_storage(one: fx.Node, other: fx.Node) -> bool:
    """Whether two inputs are views of the same memory, by their fake values."""
    a, b = value(one), value(other)
    if one is other or not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def refused_arguments(write: Write, old: set[fx.Node]) -> str | None:
    """Whether the write reads the written memory through another argument as well."""
    uses = [n for n in argument_nodes(write.node) if n in old]
    return "another argument is a view of the written memory" if uses != [write.target] else None


def argument_nodes(node: fx.Node) -> list[fx.Node]:
    """Every node among the arguments, repeats included."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def refused_layout(write: Write, new: set[fx.Node]) -> str | None:
    """Whether a later reader depends on a layout that the written memory does not have."""
    a = value(write.target)
    for result in write.results:
        b = value(result)
        if a.dtype != b.dtype or not same_sizes(a.shape, b.shape):
            return "the written tensor has another shape or dtype than the new value"
        only_stored = all(is_store(user) or user in write.absorbed for user in result.users)
        if not same_strides(a, b) and not only_stored:
            return "later readers expect a dense tensor, the written one has gaps"
        moved = not same_size(a.storage_offset(), b.storage_offset())
        if moved and any(reads_absolute_offset(user) for node in new for user in node.users):
            return "a later reader addresses the memory by a fixed offset"
    return None


def refused_readers(write: Write, owner: fx.Node, old: set[fx.Node]) -> str | None:
    """Whether the old value is used after the write."""
    allowed = {write.node, *write.absorbed, *old, *stores(owner)}
    for alias in old:
        for user in alias.users:
            if user not in allowed and write.node < user:
                return f"its old value is used later by {described(user)}"
    return None


def refused_results(owner: fx.Node, new: set[fx.Node]) -> str | None:
    """Whether the new value is used where the memory may hold something else, or by the caller."""
    if owner.op != "placeholder":
        return None
    final = stores(owner)[-1]
    for alias in new:
        for user in alias.users:
            if user.op == "output":
                return "the graph returns the new value beside storing it"
            if alias in written(user):
                return f"the new value is changed again by {described(user)}"
            if final < user and final.args[1] not in new:
                return f"the new value is used by {described(user)} after another one is stored"
    return None


def described(node: fx.Node) -> str:
    """An operator's name, or what kind of node it is."""
    return operator_name(node) or (
        "the graph's result" if node.op == "output" else str(node.target)
    )


def with_scatters(write: Write) -> Write:
    """The write with the scatters that put its view back, from the innermost outwards."""
    if write.node.target in SCATTERS:
        return write
    while True:
        scatter = next(scatters_back(write), None)
        if scatter is None:
            return write
        write = replace(write, absorbed=(*write.absorbed, scatter))


def scatters_back(write: Write) -> Iterator[fx.Node]:
    """Scatters whose source is the new state, and whose region is where this state already lies.

    Views of the memory that are used after the write show one state: see `refused_readers`.
    """
    new = write.absorbed[-1] if write.absorbed else write.node
    old = first(new)
    owner = base(old)
    for source in aliases([new]):
        for user in source.users:
            if user.target not in SCATTERS or user.args[1] is not source or user is new:
                continue
            if user not in write.absorbed and base(first(user)) is owner:
                region = fake_view(SCATTERS[user.target], first(user), user.args[2:])
                if lies_in(source, new, old, region):
                    yield user


def lies_in(source: fx.Node, new: fx.Node, old: fx.Node, region: Tensor) -> bool:
    """Whether `source`, a view of `new`, is `region` once `new` lies in the memory of `old`."""
    a, n, o = value(source), value(new), value(old)
    if source is new:
        return same_place(o, o.storage_offset(), region)
    offset = a.storage_offset() - n.storage_offset() + o.storage_offset()
    return same_strides(n, o) and same_place(a, offset, region)


def same_place(tensor: Tensor, offset: int | torch.SymInt, region: Tensor) -> bool:
    """Whether a tensor at an offset of the same storage addresses exactly `region`."""
    return (
        same_sizes(tensor.shape, region.shape)
        and same_strides(tensor, region)
        and same_size(offset, region.storage_offset())
    )


def rewrite_operator(write: Write) -> None:
    """Exchange a functional operator, or a scatter, for its in-place form."""
    node, graph = write.node, write.node.graph
    with graph.inserting_before(node):
        if node.target in SCATTERS:
            region = view_node(graph, SCATTERS[node.target], write.target, node.args[2:])
            new = graph.call_function(aten.copy_.default, (region, node.args[1]))
        else:
            overload = in_place_overload(node.target)
            assert overload is not None
            new = graph.call_function(overload, node.args, node.kwargs)
    new.meta = {**origin(node), "val": value(first(new))}
    moved = {*write.absorbed, node}
    views = aliases(moved) - moved
    for gone in (node, *write.absorbed):
        gone.replace_all_uses_with(first(gone))
    for gone in reversed((node, *write.absorbed)):
        graph.erase_node(gone)
    refresh(views)


def rewrite_call(node: fx.Node, call: Call) -> list[str | None]:
    """Call the mutating operator directly; a base that must keep its value is cloned for it."""
    reasons = []
    for index, target in enumerate(call.bases):
        results = call.results.get(call.first_result + index, ())
        reasons.append(reason_against(Write(node, target, results)))
    if all(reasons) or any(
        reason and not same_strides(value(target), torch.empty_like(value(target)))
        for target, reason in zip(call.bases, reasons, strict=True)
    ):
        return reasons
    with node.graph.inserting_before(node):
        bases = tuple(
            clone(target) if reason else target
            for target, reason in zip(call.bases, reasons, strict=True)
        )
    emit(node, call, bases)
    return reasons


def clone(node: fx.Node) -> fx.Node:
    """A copy of a tensor that must keep its value."""
    new = node.graph.call_function(aten.clone.default, (node,))
    new.meta = {**origin(node), "val": torch.empty_like(value(node))}
    return new


def drop_store(store: fx.Node) -> None:
    """Remove a final store whose value lies in the input's memory already."""
    owner, stored = first(store), store.args[1]
    if not isinstance(stored, fx.Node) or base(stored) is not owner:
        return
    a, b = value(stored), value(owner)
    if stored is owner or (same_place(a, a.storage_offset(), b) and a.dtype == b.dtype):
        store.replace_all_uses_with(owner)
        store.graph.erase_node(store)
