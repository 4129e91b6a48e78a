"""A rule as a page for people: sentence, code, conditions, graphs before and after."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from torch import fx

from ascend_passes.engine.examples import tried_scalars
from ascend_passes.engine.rule import Rule
from ascend_passes.ir import trace
from ascend_passes.verify.alike_ranks import assumed_groups
from ascend_passes.verify.choices import is_form
from ascend_passes.verify.firing import firing, rewritten
from ascend_passes.verify.mutate import another_use, pattern_calls

LEADING = (4,)
"""The sizes that stand for `...` on a page."""


@dataclass(frozen=True)
class RulePage:
    """What there is to say about a rule."""

    name: str
    kind: str
    """`recognize`, `fuse`, or the name of the user's folder."""
    documentation: str
    spellings: tuple[str, ...]
    """The names by which each can be switched; empty where there is one."""
    patterns: tuple[str, ...]
    replacement: str
    helpers: tuple[str, ...]
    """What pattern and replacement call of the rule's file and the helpers beside it."""
    conditions: tuple[str, ...]
    """The reasons that `where` may give, as the file writes them."""
    examples: tuple[str, ...]
    graph_before: str
    graph_after: str
    explained: str
    """What `explain` says of a graph that is the pattern."""
    missed: str
    """What it says where an inner value has another user; empty where that is allowed."""
    source: str


def page(rule: Rule) -> RulePage:
    """The page of a rule; the graphs are traced at its first example."""
    functions = list(dict.fromkeys(inspect.unwrap(one.function) for one in rule.spellings))
    names = tuple(rule.name_of(spelling) for spelling in rule.spellings if is_form(rule, spelling))
    return RulePage(
        name=rule.name,
        kind=rule.kind,
        documentation=inspect.cleandoc(inspect.getmodule(rule.replacement).__doc__ or ""),
        spellings=names if len(names) > 1 else (),
        patterns=tuple(source_text(function) for function in functions),
        replacement=source_text(rule.replacement),
        helpers=tuple(source_text(one) for one in helpers([*functions, rule.replacement])),
        conditions=tuple(reasons(rule.where)),
        examples=tuple(
            ", ".join(f"{name}={size}" for name, size in sizes.items()) for sizes in rule.examples
        ),
        graph_before=traced_side(rule, rule.spellings[0].function),
        graph_after=traced_side(rule, rule.replacement),
        explained=explained(rule, shared=False),
        missed="" if rule.shares else explained(rule, shared=True),
        source=rule.source,
    )


def traced_side(rule: Rule, function: Callable[..., Any]) -> str:
    """The listing of one side at the first example, with the first spelling's parameters."""
    spelling = rule.spellings[0]
    sizes = rule.examples[0]
    shapes = [
        (
            *(LEADING if item.any_rank else ()),
            *(size.factor * sizes.get(size.name, 1) for size in item.sizes),
        )
        for item in spelling.inputs
    ]
    dtypes = [item.dtype or rule.dtypes[0] for item in spelling.inputs]
    names = [item.name for item in spelling.inputs]
    scalars = tried_scalars(rule, spelling)
    wanted = inspect.signature(function).parameters

    def call(*tensors: Any) -> Any:
        given = {**spelling.constants, **dict(zip(names, tensors, strict=True)), **scalars}
        return function(**{name: value for name, value in given.items() if name in wanted})

    with assumed_groups():
        graph = trace.trace(call, trace.fake_inputs(shapes, dtypes, "cpu")).graph
    for node, name in zip(graph.find_nodes(op="placeholder"), names, strict=True):
        node.name = name
    return listing(graph)


def explained(rule: Rule, shared: bool) -> str:
    """The report on the first spelling that fires, with another user of an inner value or not."""
    for spelling in rule.spellings:
        trial = firing(rule, spelling, seed=0)
        if trial is not None:
            break
    else:
        return ""
    gm = trial.graph()
    if shared:
        inner = [node for node in pattern_calls(gm.graph) if set(node.users) - {output(gm)}]
        candidates = (part for node in reversed(inner) if (part := another_use(node)) is not None)
        extra = next((part for part in candidates if output(gm) not in part.users), None)
        if extra is None:
            return ""
        results = output(gm).args[0]
        given = results if isinstance(results, (list, tuple)) else (results,)
        output(gm).args = ((*given, extra),)
    return str(rewritten(gm, trial.rule)[1])


def output(gm: fx.GraphModule) -> fx.Node:
    """The node that holds a graph's results."""
    return gm.graph.output_node()


def helpers(functions: Sequence[Callable[..., Any]]) -> list[Callable[..., Any]]:
    """The functions of the rule's own files that these call, and those that they call in turn."""
    package = functions[0].__module__.rpartition(".")[0]
    found = list(functions)
    for function in found:
        called = (function.__globals__.get(name) for name in names_in(function.__code__))
        own = (one for one in called if isinstance(one, FunctionType) and one not in found)
        found += dict.fromkeys(one for one in own if one.__module__.startswith(f"{package}."))
    return found[len(functions) :]


def names_in(code: CodeType) -> Iterator[str]:
    """The names that a function reads, inside its comprehensions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def source_text(function: Callable[..., Any]) -> str:
    """The function as its file writes it."""
    return inspect.getsource(function).rstrip()


def reasons(where: Callable[..., Any] | None) -> Iterator[str]:
    """The second value of each `yield condition, reason`, without its quotes."""
    if where is None:
        return
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(where)))):
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            text = ast.unparse(node.value.elts[1])
            yield text.removeprefix("f").strip("'\"")


def listing(graph: fx.Graph) -> str:
    """One line for each operator: `name = namespace.operator(arguments)`."""
    lines = []
    for node in graph.nodes:
        if node.op == "output":
            lines.append(f"return {node.args[0]}")
        elif node.op != "placeholder":
            arguments = [*map(str, node.args), *(f"{k}={v}" for k, v in node.kwargs.items())]
            lines.append(f"{node.name} = {node.target}({', '.join(arguments)})")
    return "\n".join(lines)
