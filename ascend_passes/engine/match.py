"""Template x node -> match or miss; looks at the graph and changes nothing."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from ascend_passes.engine.bind import Bindings, Goal, bind, failed_check, named_sizes
from ascend_passes.engine.template_value import InputUse, Step, Template, Term
from ascend_passes.ir.arguments import arguments
from ascend_passes.ir.wording import name, operator_text

OPERANDS = (0, 1)
"""Places of the arguments that commute."""
Arguments = Callable[[fx.Node], tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Match:
    """A template found in a graph."""

    template: Template
    anchor: fx.Node
    nodes: tuple[fx.Node | None, ...]
    """The node of each step; None for a part of a result that the graph does not take."""
    inputs: Mapping[str, fx.Node]
    scalars: Mapping[str, Any]
    sizes: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Who found it, for the notes of new nodes."""
        return self.template.name

    @property
    def limit(self) -> str:
        """What the replacement does not give, where others want a value inside."""
        return self.template.rule.limit

    @property
    def outputs(self) -> tuple[fx.Node | None, ...]:
        """The node behind each value that the pattern returns."""
        return tuple(self.nodes[index] for index in self.template.outputs)

    @property
    def interior(self) -> Iterator[fx.Node]:
        """The matched nodes that nobody else may use: those that the pattern does not return."""
        if self.template.rule.shares:
            return iter(())
        kept = set(self.template.outputs)
        return (
            node for index, node in enumerate(self.nodes) if node is not None and index not in kept
        )


@dataclass(frozen=True)
class Stop:
    """Where and why a match attempt stopped."""

    depth: int
    reason: str
    node: fx.Node


def match(
    template: Template, anchor: fx.Node, read: Arguments = arguments, loose: bool = False
) -> Match | Stop:
    """Match a template with its anchor at a node.

    Args:
        template: what to look for.
        anchor: where its last operator call would be.
        read: `arguments.arguments`, or a cached form of it.
        loose: compare operators and dtypes only, no numbers and ranks: for an outline.
    """
    empty = Bindings([None] * len(template.steps), {}, {}, [], loose)
    goals: list[Goal] = [(Term(template.anchor), anchor, anchor)]
    found = solve(template, goals, empty, read)
    if isinstance(found, Stop):
        return found
    if loose:
        return Match(template, anchor, tuple(found.nodes), found.inputs, found.scalars, {})
    sizes = named_sizes(template, found)
    if isinstance(sizes, str):
        return Stop(found.depth, sizes, anchor)
    failed = failed_check(found)
    if failed is not None:
        return Stop(found.depth, *failed)
    return Match(template, anchor, tuple(found.nodes), found.inputs, found.scalars, sizes)


def stops_at_once(template: Template, anchor: fx.Node, read: Arguments = arguments) -> bool:
    """Whether `match` certainly stops with nothing bound but the anchor, as it mostly does.

    It looks at the anchor's last argument first, in either order where the operands commute.
    """
    step, looked_at = template.steps[template.anchor], looked_at_first(template)
    if looked_at is None or anchor.target != step.target:
        return False
    place, target = looked_at
    values = read(anchor)
    swaps = step.commutes and place < len(OPERANDS) and both_nodes(values)
    given = [values[index] for index in (OPERANDS if swaps else (place,))]
    return not any(isinstance(one, fx.Node) and one.target == target for one in given)


@functools.lru_cache(maxsize=4096)
def looked_at_first(template: Template) -> tuple[int, Any] | None:
    """The place and the operator of the anchor's argument that a match goes on with; None where it
    goes on with several."""
    step = template.steps[template.anchor]
    for place, wanted in reversed(list(enumerate(step.arguments))):
        if isinstance(wanted, Term):
            return place, template.steps[wanted.index].target
        if isinstance(wanted, tuple):
            return None
    return None


def solve(
    template: Template, goals: list[Goal], bound: Bindings, read: Arguments
) -> Bindings | Stop:
    """Bindings that meet all goals and bind every step, or the furthest stop."""
    while goals:
        wanted, given, owner = goals.pop()
        if isinstance(wanted, Term):
            step = template.steps[wanted.index]
            here = bound.nodes[wanted.index]
            if here is not None:
                if here is not given:
                    return Stop(
                        bound.depth, f"{name(given)} is used where {name(here)} is needed", owner
                    )
                continue
            reason = refuse_step(step, given, bound)
            if reason is not None:
                return Stop(bound.depth, reason, given if isinstance(given, fx.Node) else owner)
            bound.nodes[wanted.index] = given
            values = read(given)
            if not step.commutes or not both_nodes(values):
                goals += [(*pair, given) for pair in zip(step.arguments, values, strict=True)]
                continue
            return either_order(template, goals, step, values, given, bound, read)
        reason = bind(template, wanted, given, owner, bound, goals)
        if reason is not None:
            return Stop(bound.depth, reason, owner)
    return bind_rest(template, bound, read)


def either_order(
    template: Template,
    goals: list[Goal],
    step: Step,
    values: tuple[Any, ...],
    node: fx.Node,
    bound: Bindings,
    read: Arguments,
) -> Bindings | Stop:
    """Try the operands of a commutative operator as written, then swapped; the furthest stop
    wins."""
    furthest: Stop | None = None
    for left, right in ((0, 1), (1, 0)):
        ordered = (values[left], values[right], *values[2:])
        more = [(*pair, node) for pair in zip(step.arguments, ordered, strict=True)]
        found = solve(template, goals + more, bound.copy(), read)
        if isinstance(found, Bindings):
            return found
        if furthest is None or found.depth > furthest.depth:
            furthest = found
    assert furthest is not None
    return furthest


def bind_rest(template: Template, bound: Bindings, read: Arguments) -> Bindings | Stop:
    """Bind the steps that the anchor does not reach, through users of what is bound."""
    index = next(
        (
            i
            for i, step in enumerate(template.steps)
            if bound.nodes[i] is None and reachable(step, bound) and not is_absent(step, bound)
        ),
        None,
    )
    if index is None:
        missing = [
            i
            for i, node in enumerate(bound.nodes)
            if node is None and not is_absent(template.steps[i], bound)
        ]
        return (
            bound
            if not missing
            else Stop(
                bound.depth, f"{template.steps[missing[0]].target} was not found", last(bound)
            )
        )
    step = template.steps[index]
    furthest: Stop | None = None
    for candidate in candidates(step, bound):
        found = solve(template, [(Term(index), candidate, candidate)], bound.copy(), read)
        if isinstance(found, Bindings):
            return found
        if furthest is None or found.depth > furthest.depth:
            furthest = found
    return furthest or Stop(
        bound.depth, f"{operator_text(step.target)} does not follow", last(bound)
    )


def reachable(step: Step, bound: Bindings) -> bool:
    """Whether an argument of the step is bound, so that its node is among the argument's users."""
    return any(source_of(argument, bound) is not None for argument in step.arguments)


def source_of(argument: Any, bound: Bindings) -> fx.Node | None:
    """The node bound to a template's argument, if it is one and bound."""
    if isinstance(argument, Term):
        return bound.nodes[argument.index]
    return bound.inputs.get(argument.name) if isinstance(argument, InputUse) else None


def candidates(step: Step, bound: Bindings) -> Iterator[fx.Node]:
    """The nodes that could be the step: users of its bound arguments with its operator.

    The nearest in front come first: layers share tables and scales, but a match lies in one layer.
    """
    source = next(
        node for node in (source_of(a, bound) for a in step.arguments) if node is not None
    )
    found = [n for n in source.users if n.target == step.target and n not in bound.nodes]
    here = last(bound)
    yield from sorted((node for node in found if node < here), reverse=True)
    yield from sorted(node for node in found if here < node)


def is_absent(step: Step, bound: Bindings) -> bool:
    """Whether the step is a part of a result that the graph never takes."""
    if step.target is not operator.getitem:
        return False
    source = source_of(step.arguments[0], bound)
    return source is not None and not any(
        user.target is operator.getitem and user.args[1] == step.arguments[1]
        for user in source.users
    )


def last(bound: Bindings) -> fx.Node:
    """The bound node that stands last in the graph."""
    return max(node for node in bound.nodes if node is not None)


def both_nodes(values: tuple[Any, ...]) -> bool:
    """Whether both operands are tensors; swapping a tensor and a number is another call."""
    return isinstance(values[0], fx.Node) and isinstance(values[1], fx.Node)


def refuse_step(step: Step, given: Any, bound: Bindings) -> str | None:
    """Why a graph's argument cannot be this step, or None."""
    if not isinstance(given, fx.Node):
        return f"{given!r} stands where {operator_text(step.target)} is needed"
    if given.op != "call_function" or given.target != step.target:
        return f"{name(given)} stands where {operator_text(step.target)} is needed"
    return f"{name(given)} is used twice" if given in bound.nodes else None
