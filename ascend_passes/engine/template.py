"""A spelling compiled for matching: its graph, for one dtype, one rank and one kind of device.

Sizes in a template are functions of the inputs' sizes, so one trace serves every size. Scalars are
traced as numbers that occur nowhere else and are bound by their position.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.examples import (
    LEADING,
    example_scalars,
    example_shapes,
    has_any_rank,
    input_dtypes,
)
from ascend_passes.engine.normalize import normalize
from ascend_passes.engine.rule import Input, Rule, RuleError, Spelling
from ascend_passes.engine.template_value import (
    COMMUTATIVE,
    InputUse,
    NoFormError,
    ScalarUse,
    SizeUse,
    Step,
    Template,
    Term,
    literal,
    shape_of,
)
from ascend_passes.ir import trace
from ascend_passes.ir.arguments import arguments
from ascend_passes.ir.graph import is_call, value
from ascend_passes.ir.traced_sizes import size_function


def traced(
    spelling: Spelling,
    scalars: Mapping[str, Any],
    dtype: torch.dtype,
    leading: int,
    device: str,
    make_inputs: Callable[..., Any],
) -> fx.Graph:
    """The normal graph of a spelling."""
    shapes = example_shapes(spelling, leading)
    inputs = make_inputs(shapes, input_dtypes(spelling, dtype), device)
    graph = trace.trace(lambda *tensors: spelling.function(*tensors, **scalars), inputs).graph
    normalize(graph)
    return graph


@functools.cache
def outline(rule: Rule, spelling: Spelling, dtype: torch.dtype, device: str) -> Template | None:
    """A template at fixed sizes: its operators are right, its numbers only for those sizes.

    It takes a fifth of a template's time, and a loose match with it tells whether that is worth
    making. None for a spelling that is no form; other errors as in `build`.
    """
    leading = int(has_any_rank(spelling))
    try:
        stored = stored_template(rule, spelling, dtype, None, device)
        return stored or build(rule, spelling, dtype, leading, device, trace.fake_inputs)
    except NoFormError:
        return None


@functools.cache
def template(
    rule: Rule, spelling: Spelling, dtype: torch.dtype, leading: int, device: str
) -> Template:
    """The template of a spelling for one dtype and one number of leading sizes; errors as in
    `build`."""
    stored = stored_template(rule, spelling, dtype, leading, device)
    return stored or build(rule, spelling, dtype, leading, device, trace.symbolic_inputs)


def stored_template(
    rule: Rule, spelling: Spelling, dtype: torch.dtype, leading: int | None, device: str
) -> Template | None:
    """What the package's file holds of it, see `stored`; an outline where `leading` is None."""
    from ascend_passes.engine.stored import find_stored  # which is made of what this file defines

    return find_stored(rule, spelling, dtype, leading, device)


def build(
    rule: Rule,
    spelling: Spelling,
    dtype: torch.dtype,
    leading: int,
    device: str,
    make_inputs: Callable[..., Any],
    which: int = 0,
) -> Template:
    """Trace a spelling and read its graph.

    Raises:
        RuleError: an input or a scalar that the pattern does not use, a tensor that it makes of
            numbers, no operator call at all, or a graph that depends on a list beyond holding it.
    """
    example = example_scalars(rule, spelling, which)
    graph = traced(spelling, example, dtype, leading, device, make_inputs)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    named = dict(zip(placeholders, spelling.inputs, strict=True))
    symbols = input_symbols(named)
    scalars = {literal(one): name for name, one in example.items()}
    calls = [node for node in graph.nodes if node.op == "call_function" and not is_size(node)]
    position = {node: index for index, node in enumerate(calls)}
    results = output_nodes(graph)
    refuse_constants(graph, f"{rule.name}.{spelling.name}")
    if not spelling.alone and not results:
        raise NoFormError(f"{rule.name}.{spelling.name} returns None")
    unknown = [node for node in results if node not in position]
    if not calls or unknown:
        raise RuleError(f"{rule.name}.{spelling.name} must return values that it computes")
    used: set[str] = set()

    def read(argument: Any) -> Any:
        """A graph's argument as a template's."""
        if isinstance(argument, (list, tuple)) and literal(argument) in scalars:
            used.add(scalars[literal(argument)])
            return ScalarUse(scalars[literal(argument)])
        if isinstance(argument, (list, tuple)):
            return tuple(read(item) for item in argument)
        if isinstance(argument, fx.Node) and argument in position:
            return Term(position[argument])
        if isinstance(argument, fx.Node) and argument in named:
            used.add(named[argument].name)
            return InputUse(named[argument].name)
        if isinstance(argument, fx.Node):
            argument = value(argument)
        if isinstance(argument, torch.SymInt):
            return size_use(argument, symbols)
        if type(argument) in (int, float, str) and argument in scalars:
            used.add(scalars[argument])
            return ScalarUse(scalars[argument])
        return argument

    steps = tuple(
        Step(node.target, read(arguments(node)), node.target in COMMUTATIVE) for node in calls
    )
    unused = {*(item.name for item in spelling.inputs), *spelling.scalars} - used
    if unused:
        raise RuleError(f"{rule.name}.{spelling.name} does not use {', '.join(sorted(unused))}")
    anchor = max(index for index, step in enumerate(steps) if step.target is not operator.getitem)
    found = Template(
        rule,
        spelling,
        dtype,
        steps,
        outputs=tuple(position[node] for node in results),
        anchor=anchor,
        anchor_rank=rank_of(value(calls[anchor])),
        ranks={item.name: value(node).dim() for node, item in named.items()},
    )
    if rule.lists and which == 0:
        again = build(rule, spelling, dtype, leading, device, make_inputs, which=1)
        if [shape_of(step) for step in steps] != [shape_of(step) for step in again.steps]:
            raise RuleError(
                f"{rule.name}.{spelling.name} is another graph with other values of "
                f"{', '.join(rule.lists)}, or has one of its values as a literal too"
            )
    return found


def output_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that a graph returns, in order."""
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    flat = result if isinstance(result, (list, tuple)) else [result]
    return [node for node in flat if isinstance(node, fx.Node)]


def refuse_constants(graph: fx.Graph, subject: str) -> None:
    """Raise RuleError for a traced function that makes a tensor of numbers: it belongs to that
    trace."""
    if graph.find_nodes(op="get_attr"):
        raise RuleError(
            f"{subject} makes a tensor of numbers, as torch.tensor does; "
            "write a Python number, torch.full_like, or an input"
        )


def is_size(node: fx.Node) -> bool:
    """Whether a node computes a size rather than a tensor."""
    return is_call(node, torch.ops.aten.sym_size.int) or isinstance(
        value(node), (torch.SymInt, int)
    )


def input_symbols(named: dict[fx.Node, Input]) -> dict[Any, tuple[str, int]]:
    """Symbol -> the (input, dim) that it is the size of."""
    symbols: dict[Any, tuple[str, int]] = {}
    for node, item in named.items():
        tensor = value(node)
        assert isinstance(tensor, Tensor)
        for dim, size in enumerate(tensor.shape):
            if isinstance(size, torch.SymInt):
                symbols.setdefault(size.node.expr, (item.name, dim))
    return symbols


def size_use(size: torch.SymInt, symbols: dict[Any, tuple[str, int]]) -> SizeUse:
    """The number in terms of the inputs' sizes."""
    expression = size.node.expr
    free = sorted(expression.free_symbols, key=str)
    sources = tuple(symbols[symbol] for symbol in free)
    return SizeUse(str(expression), size_function(expression, free), sources)


def outlines(
    rule: Rule, dtypes: Sequence[torch.dtype], device: str, present: frozenset[Any]
) -> Iterator[Template]:
    """The outlines of a rule that may match a graph with these dtypes and operators."""
    for spelling, dtype in itertools.product(rule.spellings, dtypes):
        if dtype not in rule.dtypes:
            continue
        found = outline(rule, spelling, dtype, device)
        if found is not None and found.targets <= present:
            yield found


def for_rank(base: Template, rank: int, device: str) -> Template | None:
    """The template of an outline whose anchor has this rank, or None where the spelling cannot have
    it."""
    leading = rank - base.anchor_rank + int(has_any_rank(base.spelling))
    fixed = not has_any_rank(base.spelling)
    if leading < 0 or leading > len(LEADING) or (fixed and leading):
        return None
    return template(base.rule, base.spelling, base.dtype, leading, device)


def rank_of(fake: Any) -> int:
    """The rank of a tensor, or of the first tensor of several results; -1 for other values."""
    fake = fake[0] if isinstance(fake, (list, tuple)) and fake else fake
    return fake.dim() if isinstance(fake, Tensor) else -1
