"""A piece of a graph: the nodes through which one value is computed from others."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import same_size, value
from ascend_passes.ir.proof import prove
from ascend_passes.meaning.vocabulary import ALLOWED, CASTS, LAYOUT

MOST_NODES = 64
"""Nodes of a piece; the longest spelling met so far, an amplified YaRN rotation, has 31."""


@dataclass(frozen=True, eq=False)
class Cone:
    """What computes `out` from `sources`."""

    out: fx.Node
    sources: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    """In order: those that depend on a source, and what the others are computed by."""
    leaves: tuple[fx.Node, ...]
    """The tensors that they read beside the sources, in order of use."""
    own: frozenset[fx.Node]
    """Those of `nodes` that depend on a source."""
    others: tuple[fx.Node, ...] = ()
    """Results beside `out`, of a family that gives several."""


def fake_tensor(node: fx.Node) -> Tensor | None:
    """The fake tensor of a node; None for a number or for several."""
    fake = value(node)
    return fake if isinstance(fake, Tensor) else None


def cone_of(
    out: fx.Node,
    sources: tuple[fx.Node, ...],
    allowed: Collection[Any] = ALLOWED,
    absorbs: Callable[[fx.Node], bool] | None = None,
) -> Cone | None:
    """The piece between `sources` and `out`; None where it has more than `MOST_NODES` nodes, or
    where `out` depends on none of them.

    What cannot be computed in float64, or depends on no source, is a leaf: the piece's meaning must
    hold whatever its value is. But what makes a leaf of tensors that are not larger is a part of
    the piece, unless `absorbs` says that it is not.
    """
    region = region_of(out, sources, allowed)
    if region is None:
        return None
    own: set[fx.Node] = set()
    for node in region:
        if any(given in own or given in sources for given in node.all_input_nodes):
            own.add(node)
    if out not in own:
        return None
    reached = reached_from(out, own)
    nodes, leaves = absorbed(reached, sources, allowed, absorbs)
    if len(nodes) + len(leaves) > MOST_NODES:
        return None
    return Cone(out, sources, tuple(nodes), tuple(leaves), frozenset(reached))


def region_of(
    out: fx.Node, sources: tuple[fx.Node, ...], allowed: Collection[Any]
) -> list[fx.Node] | None:
    """The allowed nodes that lead to `out` and stand behind the first source, in order."""
    earliest, seen, pending = min(sources), {out}, [out]
    if out in sources or not calls_one_of(out, allowed):
        return None
    while pending:
        for given in pending.pop().all_input_nodes:
            if given in seen or given in sources or given < earliest:
                continue
            if calls_one_of(given, allowed):
                seen.add(given)
                pending.append(given)
        if len(seen) > 2 * MOST_NODES:
            return None
    return sorted(seen)


def calls_one_of(node: fx.Node, allowed: Collection[Any]) -> bool:
    """Whether a node calls an operator that a piece may have."""
    return node.op == "call_function" and node.target in allowed


def reached_from(out: fx.Node, own: set[fx.Node]) -> list[fx.Node]:
    """The nodes of `own` that lead to `out` through others of them, in order."""
    seen, pending = {out}, [out]
    while pending:
        for given in pending.pop().all_input_nodes:
            if given in own and given not in seen:
                seen.add(given)
                pending.append(given)
    return sorted(seen)


def absorbed(
    reached: list[fx.Node],
    sources: tuple[fx.Node, ...],
    allowed: Collection[Any],
    absorbs: Callable[[fx.Node], bool] | None,
) -> tuple[list[fx.Node], list[fx.Node]]:
    """The nodes of a piece with what computes its parameters, and the leaves that are left.

    A gain may be one plus a weight, and a weight cast: what makes it of tensors that are not larger
    belongs to the spelling.
    """
    inside, leaves = set(reached), dict[fx.Node, None]()
    pending = [given for node in reached for given in node.all_input_nodes]
    for given in pending:  # grows while it is walked
        if given in inside or given in leaves or given in sources or not holds_tensor(given):
            continue
        if len(inside) > MOST_NODES:
            break
        wanted = absorbs is None or absorbs(given)
        if wanted and calls_one_of(given, allowed) and is_spelled_small(given):
            inside.add(given)
            pending += given.all_input_nodes
        else:
            leaves[given] = None
    return sorted(inside), list(leaves)


def calls_on_rows(cone: Cone, targets: Collection[Any]) -> list[fx.Node]:
    """The nodes of a piece that call one of these operators, depend on a source and hold as many
    elements as the first, in order."""
    count = value(cone.sources[0]).numel()
    calls = (node for node in cone.nodes if node in cone.own and node.target in targets)
    return [node for node in calls if same_size(value(node).numel(), count)]


def makes_itself(node: fx.Node) -> bool:
    """Whether a node is made of numbers alone; for families whose other inputs are values."""
    return node.op == "call_function" and not any(map(holds_tensor, node.all_input_nodes))


def holds_tensor(node: fx.Node) -> bool:
    """Whether a node's value is a tensor, or several."""
    return isinstance(value(node), (Tensor, tuple, list))


def is_spelled_small(node: fx.Node) -> bool:
    """Whether a node is computed from tensors that are provably no larger than its own value, or
    from none."""
    own = fake_tensor(node)
    if own is None:
        return False
    given = [fake_tensor(item) for item in node.all_input_nodes if holds_tensor(item)]
    return all(fake is not None and is_at_most(fake, own) for fake in given)


def is_at_most(small: Tensor, large: Tensor) -> bool:
    """Whether one tensor provably has at most as many elements."""
    few, many = small.numel(), large.numel()
    if isinstance(few, int) and isinstance(many, int):
        return few <= many
    ratio = expression(few) / expression(many)
    known = ratio.is_number and ratio.is_real  # not so over a size of 0
    return bool(known and ratio <= 1) or prove(few <= many)


def expression(size: Any) -> Any:
    """A size as sympy sees it."""
    if isinstance(size, int):
        import sympy

        return sympy.Integer(size)
    return size.node.expr


def is_widening(node: fx.Node) -> bool:
    """Whether a node casts to a dtype that holds all values of the one before: nothing is computed
    in it, so no piece ends in it."""
    if node.op != "call_function" or node.target not in CASTS or not node.all_input_nodes:
        return False
    before, after = fake_tensor(node.all_input_nodes[0]), fake_tensor(node)
    if before is None or after is None:
        return False
    return torch.promote_types(before.dtype, after.dtype) == after.dtype


def ancestors(node: fx.Node, depth: int, allowed: Collection[Any] = ALLOWED) -> list[fx.Node]:
    """What a node is computed from through allowed operators, the nearest first."""
    found, seen = [node], {node: 0}
    for here in found:  # grows while it is walked
        if seen[here] >= depth or not calls_one_of(here, allowed):
            continue
        for given in here.all_input_nodes:
            if given not in seen and holds_tensor(given):
                seen[given] = seen[here] + 1
                found.append(given)
    return found[1:]


def descendants(
    node: fx.Node,
    depth: int,
    allowed: Collection[Any] = ALLOWED,
    before: Collection[fx.Node] = (),
    count: Any = None,
) -> list[fx.Node]:
    """What is computed from a node through allowed operators, the last first.

    Args:
        node: where to begin.
        depth: operators between it and the farthest.
        allowed: operators to go through.
        before: what results of `count` elements may read, of their own size, beside what is
            computed from `node`.
        count: the elements of results that are asked for what they read; None for none.
    """
    seen = {node: 0}
    waiting = [user for user in node.users if calls_one_of(user, allowed)]
    heapq.heapify(waiting)
    while waiting:
        here = heapq.heappop(waiting)
        if here in seen or (
            count is not None and reads_another(here, seen, before, count, allowed)
        ):
            continue
        near = min(seen[given] for given in here.all_input_nodes if given in seen) + 1
        if near > depth:
            continue
        seen[here] = near
        for user in here.users:
            if user not in seen and calls_one_of(user, allowed):
                heapq.heappush(waiting, user)
    return sorted(list(seen)[1:], reverse=True)


def reads_another(
    node: fx.Node,
    seen: Collection[fx.Node],
    before: Collection[fx.Node],
    count: Any,
    allowed: Collection[Any],
) -> bool:
    """Whether a node of `count` elements computes with a tensor of its own size that is none of
    those known; a gain is no such tensor, though it has as many elements as a single row."""
    own = fake_tensor(node)
    if own is None or not same_size(own.numel(), count):
        return False
    for given in node.all_input_nodes:
        behind = given  # each reader may have casts and views of its own
        while behind not in seen and behind not in before and moves_one(behind):
            behind = behind.all_input_nodes[0]
        if is_as_large(behind, own) and not is_made_of(behind, {*seen, *before}, allowed):
            return True
    return False


def is_as_large(node: fx.Node, other: Tensor) -> bool:
    """Whether a node computes a tensor of as many elements as another, in as many dims."""
    fake = fake_tensor(node)
    if fake is None or node.op != "call_function":
        return False
    return fake.dim() >= other.dim() and same_size(fake.numel(), other.numel())


def is_made_of(
    node: fx.Node, known: Collection[fx.Node], allowed: Collection[Any], depth: int = 3
) -> bool:
    """Whether a node is one of those known, or computed from them and smaller tensors alone."""
    if node in known:
        return True
    own = fake_tensor(node)
    if not depth or own is None or not calls_one_of(node, allowed):
        return False
    large = [given for given in node.all_input_nodes if is_as_large(given, own) or given in known]
    return bool(large) and all(is_made_of(one, known, allowed, depth - 1) for one in large)


def moves_one(node: fx.Node) -> bool:
    """Whether a node is a cast or a view of another."""
    return (
        node.op == "call_function"
        and (node.target in LAYOUT or is_widening(node))
        and bool(node.all_input_nodes)
    )
