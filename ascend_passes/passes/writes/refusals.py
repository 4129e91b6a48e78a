"""Why a functional write stays a copy."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import (
    base,
    first,
    operator_name,
    same_size,
    same_sizes,
    same_strides,
    value,
    writes_possible,
    written,
)
from ascend_passes.ir.in_place import (
    fake_view,
    read_call,
)
from ascend_passes.ir.proof import prove
from ascend_passes.ir.sharing import aliases, reads_absolute_offset
from ascend_passes.ir.traits import traits_of
from ascend_passes.passes.writes.store import (
    Write,
    argument_nodes,
    is_store,
    placeholders,
    shares_storage,
    stores,
)

aten = torch.ops.aten


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


def refused_arguments(write: Write, old: set[fx.Node]) -> str | None:
    """Whether the write reads the written memory through another argument as well."""
    uses = [n for n in argument_nodes(write.node) if n in old]
    for _ in given_twice(write):
        uses.remove(write.target)
    return "another argument is a view of the written memory" if uses != [write.target] else None


def given_twice(write: Write) -> list[str]:
    """Arguments that are the written tensor itself, where the operator is made for that."""
    call = read_call(write.node)
    if call is None:
        return []
    names = traits_of(call.operator).given_twice
    return [name for name in names if call.arguments.get(name) is write.target]


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
                return f"its old value is used later by {writer_text(user)}"
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
                return f"the new value is changed again by {writer_text(user)}"
            if final < user and final.args[1] not in new:
                return f"the new value is used by {writer_text(user)} after another one is stored"
    return None


def writer_text(node: fx.Node) -> str:
    """An operator's name, or what kind of node it is."""
    return operator_name(node) or (
        "the graph's result" if node.op == "output" else str(node.target)
    )
