"""Why a match that fits may not be applied: others use its values, or nodes cannot move."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import fx

from ascend_passes.engine.emission import Emission
from ascend_passes.engine.found import Found
from ascend_passes.ir.graph import base, is_view, written
from ascend_passes.ir.sharing import may_replace
from ascend_passes.ir.traits import traits_of
from ascend_passes.ir.wording import name


def refuse(found: Found, effects: Sequence[fx.Node]) -> str | None:
    """Why a match may not be applied: shared values, cycles, writes or stream boundaries inside.

    `effects` are the nodes of the graph with an effect, in order.
    """
    matched = {node for node in found.nodes if node is not None}
    for node in found.interior:
        outside = [user for user in node.users if user not in matched]
        if outside:
            count, limit = len(node.users), found.limit
            return (
                f"{limit}{': ' if limit else ''}{name(node)} has {count} users, "
                f"{len(outside)} outside the pattern: {name(outside[0])}"
            )
    results = {node for node in found.outputs if node is not None}
    if depends_on(found.inputs.values(), results, min(results)):
        return "an input depends on an output; the fused operator would need its own result"
    return refuse_boundary(effects, found, min(matched))


def depends_on(nodes: Iterable[fx.Node], targets: set[fx.Node], earliest: fx.Node) -> bool:
    """Whether any of `nodes` is computed from one of `targets`."""
    pending, seen = list(nodes), set()
    while pending:
        node = pending.pop()
        if node in targets:
            return True
        if node in seen or node < earliest:
            continue
        seen.add(node)
        pending += node.all_input_nodes
    return False


def refuse_boundary(effects: Sequence[fx.Node], found: Found, earliest: fx.Node) -> str | None:
    """Why the matched nodes cannot move together: an effect between them that they notice."""
    last = max([*filter(None, found.nodes), *late_inputs(found, insertion_point(found))])
    between = effects[bisect.bisect_left(effects, earliest) : bisect.bisect_left(effects, last)]
    owners = {base(node) for node in found.inputs.values()}
    matched = set(found.nodes)
    for effect in (node for node in between if node not in matched):
        targets = written(effect)
        if any(base(target) in owners for target in targets):
            return f"{name(effect)} writes an input of the pattern in its middle"
        if not targets and not traits_of(effect.target).effect:
            return f"{name(effect)} is a stream or side-effect boundary inside the pattern"
    return None


def refuse_writes(found: Found, emission: Emission) -> str | None:
    """Why the replacement may not write what it writes: memory that somebody else reads or owns."""
    matched = {node for node in found.nodes if node is not None}
    for node in emission.graph.nodes:
        for target in written(node):
            item = base(target).meta.get("input", "")
            given = found.inputs.get(item)
            if given is None:
                continue
            if not is_private(given, matched):
                return f"{name(node)} writes {item}, which is used outside the pattern as well"
            others = (other for key, other in found.inputs.items() if key != item)
            if any(base(other) is base(given) for other in others):
                return f"{name(node)} writes {item}, which is another input of the pattern as well"
    return None


def refuse_sharing(found: Found, emission: Emission) -> str | None:
    """Why the replacement may not return what it returns: two results, or a result and an input,
    would lie in one memory that do not now."""
    stands: dict[fx.Node, fx.Node] = {}
    for old, new in zip(found.outputs, emission.outputs, strict=True):
        if old is None:
            continue
        owner = base(new)
        if owner.op == "placeholder":
            other = found.inputs[owner.meta["input"]]
        else:
            other = stands.setdefault(owner, old)
        if other is not old and not may_replace(old, other):
            return f"{name(old)} would share memory with {name(other)}"
    return None


def is_private(node: fx.Node, matched: set[fx.Node]) -> bool:
    """Whether nobody but the matched nodes reads the memory behind a node, and the graph made
    it. A size is no part of that memory."""
    owner = base(node)
    if owner.op != "call_function":
        return False
    aliases = [owner]
    for alias in aliases:
        for user in alias.users:
            if is_view(user) or user.target is operator.getitem:
                aliases.append(user)
            elif user not in matched and user.target is not torch.ops.aten.sym_size.int:
                return False
    return True


def insertion_point(found: Found) -> fx.Node:
    """The node in front of which the replacement goes: the anchor, or an earlier user of a
    result."""
    matched = {node for node in found.nodes if node is not None}
    users = [
        user
        for node in found.outputs
        if node is not None
        for user in node.users
        if user not in matched
    ]
    return min([found.anchor, *users])


def late_inputs(found: Found, point: fx.Node) -> list[fx.Node]:
    """Inputs that stand behind the insertion point, with what they need, in order."""
    pending, late = list(found.inputs.values()), set()
    while pending:
        node = pending.pop()
        if node in late or node < point or node is point or node.op == "placeholder":
            continue
        late.add(node)
        pending += node.all_input_nodes
    return sorted(late)
