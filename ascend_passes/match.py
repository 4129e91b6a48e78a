"""Template x node -> match or miss; looks at the graph and changes nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.graph import same_size, value
from ascend_passes.normalize import arguments
from ascend_passes.rule import Input
from ascend_passes.template import InputUse, ScalarUse, SizeUse, Step, Template, Term

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
    def outputs(self) -> tuple[fx.Node | None, ...]:
        """The node behind each value that the pattern returns."""
        return tuple(self.nodes[index] for index in self.template.outputs)

    @property
    def interior(self) -> Iterator[fx.Node]:
        """The matched nodes that the pattern does not return."""
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


@dataclass
class Bindings:
    """What an attempt has found so far; copied where an attempt branches."""

    nodes: list[fx.Node | None]
    inputs: dict[str, fx.Node]
    scalars: dict[str, Any]
    checks: list[tuple[SizeUse, Any, fx.Node]]
    loose: bool

    def copy(self) -> Bindings:
        """Bindings of their own for one branch of an attempt."""
        return Bindings(
            list(self.nodes), dict(self.inputs), dict(self.scalars), list(self.checks), self.loose
        )

    @property
    def depth(self) -> int:
        """How many steps are bound."""
        return sum(node is not None for node in self.nodes)


Goal = tuple[Any, Any, fx.Node]
"""(argument of the template, argument of the graph, node that has the latter)."""


def match(
    template: Template, anchor: fx.Node, read: Arguments = arguments, loose: bool = False
) -> Match | Stop:
    """Match a template with its anchor at a node.

    Args:
        template: what to look for.
        anchor: where its last operator call would be.
        read: `normalize.arguments`, or a cached form of it.
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
            if bound.nodes[i] is None and reachable(step, bound) and not absent(step, bound)
        ),
        None,
    )
    if index is None:
        missing = [
            i
            for i, node in enumerate(bound.nodes)
            if node is None and not absent(template.steps[i], bound)
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


def absent(step: Step, bound: Bindings) -> bool:
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


def bind(
    template: Template, wanted: Any, given: Any, owner: fx.Node, bound: Bindings, goals: list[Goal]
) -> str | None:
    """Bind one argument that is no step, or say why not; lists add goals for their items."""
    if isinstance(wanted, InputUse):
        return bind_input(template, wanted.name, given, bound)
    if isinstance(wanted, ScalarUse):
        return bind_scalar(template, wanted.name, given, bound)
    if isinstance(wanted, SizeUse):
        bound.checks.append((wanted, given, owner))
        return None
    if isinstance(wanted, tuple):
        if not isinstance(given, tuple) or len(given) != len(wanted):
            if bound.loose and not has_uses(wanted):
                return None
            return f"{given!r} stands where {wanted!r} is needed in {name(owner)}"
        goals += [(*pair, owner) for pair in zip(wanted, given, strict=True)]
        return None
    if bound.loose:
        return None
    if isinstance(given, fx.Node):
        return f"{name(given)} stands where the literal {wanted!r} is needed in {name(owner)}"
    return (
        None
        if same_literal(wanted, given)
        else f"literal {given!r} is not {wanted!r} in {name(owner)}"
    )


def has_uses(wanted: tuple[Any, ...]) -> bool:
    """Whether a list of the template holds tensors, so that its length does not depend on a
    rank."""
    return any(isinstance(item, (Term, InputUse)) for item in wanted)


def bind_input(template: Template, wanted: str, given: Any, bound: Bindings) -> str | None:
    """Bind a tensor input; it must have the declared dtype and rank."""
    fake = value(given) if isinstance(given, fx.Node) else None
    if not isinstance(fake, Tensor):
        return f"{wanted} is {given!r}, not a tensor"
    here = bound.inputs.setdefault(wanted, given)
    if here is not given:
        return f"{wanted} is both {name(here)} and {name(given)}"
    declared = next(item for item in template.spelling.inputs if item.name == wanted)
    dtype = declared.dtype or template.dtype
    if fake.dtype != dtype:
        peer = None if declared.dtype else next(untyped(template, bound, wanted), None)
        if peer is not None:
            return (
                f"{wanted} is {short(fake.dtype)} but {peer} is {short(dtype)}; they must be alike"
            )
        return f"{wanted} is {short(fake.dtype)}, the rule wants {short(dtype)}"
    if not bound.loose and fake.dim() != template.ranks[wanted]:
        return f"{wanted} has {fake.dim()} dims, the rule wants {template.ranks[wanted]}"
    return None


def untyped(template: Template, bound: Bindings, wanted: str) -> Iterator[str]:
    """The other bound inputs whose dtype the rule leaves open, all of one dtype."""
    names = (item.name for item in template.spelling.inputs if item.dtype is None)
    return (name for name in names if name != wanted and name in bound.inputs)


def bind_scalar(template: Template, wanted: str, given: Any, bound: Bindings) -> str | None:
    """Bind a Python number; a bool is none, and a size is an int."""
    if isinstance(given, fx.Node):
        given = value(given)
    kinds = (int, torch.SymInt) if template.spelling.scalars[wanted] is int else (int, float)
    if isinstance(given, bool) or not isinstance(given, kinds):
        return f"{wanted} is {given!r}, not a number that is known while compiling"
    here = bound.scalars.setdefault(wanted, given)
    return None if here is given or here == given else f"{wanted} is both {here} and {given}"


def named_sizes(template: Template, bound: Bindings) -> dict[str, Any] | str:
    """The number behind each size name, or the reason why the inputs' sizes contradict."""
    sizes: dict[str, Any] = {}
    later: list[tuple[Input, int, Any]] = []
    leading: tuple[Any, ...] | None = None
    for item in template.spelling.inputs:
        shape = tuple(value(bound.inputs[item.name]).shape)
        split = len(shape) - len(item.sizes)
        if item.any_rank:
            if leading is not None and not all(map(same_size, leading, shape[:split])):
                return f"the leading sizes of {item.name} are {shape[:split]}, others are {leading}"
            leading = shape[:split]
        for position, (size, number) in enumerate(zip(item.sizes, shape[split:], strict=True)):
            if size.name and size.factor == 1:
                known = sizes.setdefault(size.name, number)
                if not same_size(known, number):
                    return f"{size.name} is {known} but {item.name} has {number}"
            else:
                later.append((item, position, number))
    for item, position, number in later:
        size = item.sizes[position]
        if size.name and size.name not in sizes:
            sizes[size.name] = number // size.factor
        if not same_size(size.factor * sizes.get(size.name, 1), number):
            return f"{item.name} has {number} where {size.factor}*{size.name or 1} is needed"
    return sizes


def failed_check(bound: Bindings) -> tuple[str, fx.Node] | None:
    """The first number of the graph that is not what the pattern computes from the inputs'
    sizes."""
    for use, given, owner in bound.checks:
        shapes = (value(bound.inputs[source]).shape[dim] for source, dim in use.sources)
        number = use.function(*shapes)
        found = value(given) if isinstance(given, fx.Node) else given
        if not isinstance(found, (int, torch.SymInt)) or not same_size(number, found):
            return f"{found} stands where {use.text} = {number} is needed in {name(owner)}", owner
    return None


def same_literal(wanted: Any, given: Any) -> bool:
    """Whether two literals are equal; True is not 1, but 2 is 2.0."""
    if isinstance(wanted, bool) is not isinstance(given, bool):
        return False
    return bool(wanted == given)


def name(node: Any) -> str:
    """The operator of a node, or what else it is, in words for a reason."""
    if not isinstance(node, fx.Node):
        return repr(node)
    return "an input of the graph" if node.op == "placeholder" else operator_text(node.target)


def operator_text(target: Any) -> str:
    """An operator's name without its namespace clutter."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name.split("::")[1])
    return getattr(target, "__name__", str(target))


def short(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")
