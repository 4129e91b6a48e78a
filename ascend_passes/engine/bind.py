"""What a match attempt has bound so far, and whether one more argument fits to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.rule import LIST, Input
from ascend_passes.engine.template_value import InputUse, ScalarUse, SizeUse, Template, Term
from ascend_passes.ir.graph import same_size, value
from ascend_passes.ir.wording import name, short


class WrongDtype(str):
    """A reason that may be wrong about the model: a template for another dtype might fit better."""


TYPES: Mapping[Any, tuple[type, ...]] = MappingProxyType(
    {int: (int, torch.SymInt), float: (int, float), str: (str,)}
)
SAID: Mapping[Any, str] = MappingProxyType({str: "a string", LIST: "a list of numbers"})


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
        return WrongDtype(f"{wanted} is {short(fake.dtype)}, the rule wants {short(dtype)}")
    if not bound.loose and fake.dim() != template.ranks[wanted]:
        return f"{wanted} has {fake.dim()} dims, the rule wants {template.ranks[wanted]}"
    return None


def untyped(template: Template, bound: Bindings, wanted: str) -> Iterator[str]:
    """The other bound inputs whose dtype the rule leaves open, all of one dtype."""
    names = (item.name for item in template.spelling.inputs if item.dtype is None)
    return (name for name in names if name != wanted and name in bound.inputs)


def bind_scalar(template: Template, wanted: str, given: Any, bound: Bindings) -> str | None:
    """Bind a Python value; a bool is no number, and a size is an int."""
    if isinstance(given, fx.Node):
        given = value(given)
    kind = template.spelling.scalars[wanted]
    if not is_scalar(given, kind):
        what = SAID.get(kind, "a number")
        return f"{wanted} is {given!r}, not {what} that is known while compiling"
    here = bound.scalars.setdefault(wanted, given)
    if here is given or same_literal(here, given):
        return None
    return f"{wanted} is both {here} and {given}"


def is_scalar(given: Any, kind: Any) -> bool:
    """Whether a graph's argument is what a scalar is declared as."""
    if kind == LIST:
        return isinstance(given, tuple) and all(type(one) is int for one in given)
    return not isinstance(given, bool) and isinstance(given, TYPES[kind])


def same_literal(wanted: Any, given: Any) -> bool:
    """Whether two literals are equal; True is not 1 and -0.0 not 0.0, but 2 is 2.0."""
    if isinstance(wanted, bool) is not isinstance(given, bool):
        return False
    if isinstance(wanted, float) and isinstance(given, float):
        return wanted == given and math.copysign(1, wanted) == math.copysign(1, given)
    return bool(wanted == given)


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
