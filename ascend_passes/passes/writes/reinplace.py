"""Writes that AOTAutograd made functional happen in place again, so that no KV cache is copied.

A functional write copies its whole input; for a cache this costs more than all fusions gain. A
write is done in place where nobody reads the old value afterwards, where no other argument shares
the memory, and where the graph ends by storing a new value into the same input anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, fx

from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import (
    Context,
    base,
    first,
    operator_name,
    place,
    same_size,
    same_sizes,
    same_strides,
    value,
)
from ascend_passes.ir.in_place import (
    AUTHOR,
    SCATTERS,
    Call,
    fake_view,
    in_place_overload,
    put_in_place,
    read_call,
    refresh_views,
)
from ascend_passes.ir.sharing import aliases
from ascend_passes.passes.writes.refusals import reason_against
from ascend_passes.passes.writes.store import (
    Write,
    is_store,
    path_to_input,
)
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten


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


def worthwhile(node: fx.Node, kept: set[fx.Node]) -> bool:
    """Whether the write goes to an input's memory, or to the copy that a refused write made."""
    owner = base(first(node))
    return owner.op == "placeholder" or owner in kept


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
    with Editor(graph, AUTHOR).at(node) as edit:
        if node.target in SCATTERS:
            region = edit.call(SCATTERS[node.target], write.target, *node.args[2:])
            edit.known(value(region), aten.copy_.default, region, node.args[1])
        else:
            overload = in_place_overload(node.target)
            assert overload is not None
            edit.known(value(first(node)), overload, *node.args, **node.kwargs)
    moved = {*write.absorbed, node}
    views = aliases(moved) - moved
    for gone in (node, *write.absorbed):
        gone.replace_all_uses_with(first(gone))
    for gone in reversed((node, *write.absorbed)):
        graph.erase_node(gone)
    refresh_views(views)


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
    with Editor(node.graph, AUTHOR).at(node) as edit:
        bases = tuple(
            edit.call(aten.clone.default, target) if reason else target
            for target, reason in zip(call.bases, reasons, strict=True)
        )
    put_in_place(node, call, bases)
    return reasons


def drop_store(store: fx.Node) -> None:
    """Remove a final store whose value lies in the input's memory already."""
    owner, stored = first(store), store.args[1]
    if not isinstance(stored, fx.Node) or base(stored) is not owner:
        return
    a, b = value(stored), value(owner)
    if stored is owner or (same_place(a, a.storage_offset(), b) and a.dtype == b.dtype):
        store.replace_all_uses_with(owner)
        store.graph.erase_node(store)
