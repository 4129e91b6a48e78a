"""What the passes ask about a node: its value, the model's line behind it, what it reads and
writes."""

from __future__ import annotations

import functools
import linecache
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.proof import prove
from ascend_passes.ir.traits import rests_on_traits, traits_of
from ascend_passes.options.plans import Plan
from ascend_passes.options.value import Options
from ascend_passes.report.value import Place

SIDE_EFFECT_NAMESPACES = ("npugraph_ex", "air", "streams")
"""Of operators whose calls matter though their schemas show no write."""
UNPROVEN = "ascend_unproven_strides"
"""The mark of a fake tensor whose strides depend on sizes that are not known."""
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
MODULE_STEP = re.compile(r"\['?([^\]']+)'?\]")


@dataclass(frozen=True)
class Context:
    """What a stage knows beside the graph."""

    options: Options = field(default_factory=Options)
    plan: Plan | None = None
    """The token range the graph is compiled for; None where one graph serves all."""
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    """Placeholder name -> the parameter or buffer behind it, for questions about its content.

    Whoever asks must make the answer hold for later calls as well: see `passes/constants/fold.py`.
    """
    device: str = "cpu"
    """Type of the device that runs the graph: npu, cuda or cpu."""
    numbers: Mapping[int, float] = field(default_factory=dict)
    """Position -> the value of a float input that the graph is compiled for."""
    trust: bool = True
    """Whether the graph may rest on what constants hold now, see `passes/constants/facts.py`."""
    folds: bool = False
    """Whether who asks runs the graph too, so that it can take inputs that hold computed values."""


def value(node: fx.Node) -> Any:
    """The fake value of a node: a FakeTensor, a tuple of them, a number or a SymInt."""
    return node.meta.get("val")


def is_call(node: Any, *targets: Any) -> bool:
    """Whether `node` calls one of these operator overloads."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def operator_name(node: fx.Node) -> str:
    """`namespace::name` of the operator that a node calls, without the overload; "" for others."""
    target = node.target
    return target._schema.name if isinstance(target, torch._ops.OpOverload) else ""


def place(node: fx.Node) -> Place:
    """The module and the line of the model that a node comes from; empty fields where unknown."""
    return Place(module_path(node), model_line(node.meta.get("stack_trace") or ""))


def module_path(node: fx.Node) -> str:
    """`model.layers.0.input_layernorm` from the innermost entry of the node's module stack."""
    stack = node.meta.get("nn_module_stack")
    return spoken_path(str(next(reversed(stack.values()))[0])) if stack else ""


@functools.lru_cache(maxsize=4096)
def spoken_path(path: str) -> str:
    """What a user calls a module, of the path that the trace has for it."""
    path = MODULE_STEP.sub(r".\1", path)
    path = path.replace("._modules.", ".").replace("L.self", "").replace("L.model", "")
    return path.lstrip("L").strip(".")


@functools.lru_cache(maxsize=4096)
def model_line(trace: str) -> str:
    """`file.py:62 in forward: source text`, from the innermost frame of a stack trace."""
    frames = list(FRAME.finditer(trace))
    if not frames:
        return ""
    frame = frames[-1]
    file, line = frame["file"], int(frame["line"])
    source = linecache.getline(file, line).strip()
    name = f"{file.rsplit('/', 1)[-1]}:{line} in {frame['function']}"
    return f"{name}: {source}" if source else name


def arguments_by_name(node: fx.Node) -> Iterator[tuple[str, Any, Any]]:
    """(name, argument, schema entry) of each given argument of an operator call."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return
    for index, entry in enumerate(target._schema.arguments):
        if index < len(node.args):
            yield entry.name, node.args[index], entry
        elif entry.name in node.kwargs:
            yield entry.name, node.kwargs[entry.name], entry


def argument_of(node: fx.Node, name: str) -> Any:
    """The argument of a name in an operator call; None where it is not given."""
    return next((given for one, given, _ in arguments_by_name(node) if one == name), None)


def written(node: fx.Node) -> tuple[fx.Node, ...]:
    """The arguments whose memory the node writes: by its schema and by its traits."""
    return tuple(_written(node)) if writes_possible(node.target) else ()


@rests_on_traits
def writes_possible(target: Any) -> bool:
    """Whether calls of this operator can write an argument at all."""
    return declares_write(target) or bool(traits_of(target).writes)


@functools.cache
def declares_write(target: Any) -> bool:
    """Whether an operator's schema shows a write."""
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _written(node: fx.Node) -> Iterator[fx.Node]:
    undeclared = traits_of(node.target).writes
    for name, argument, entry in arguments_by_name(node):
        if (entry.alias_info is not None and entry.alias_info.is_write) or name in undeclared:
            yield from (
                a
                for a in (argument if isinstance(argument, (list, tuple)) else [argument])
                if isinstance(a, fx.Node)
            )


def has_effect(node: fx.Node) -> bool:
    """Whether a node does more than compute its value: writes, streams, prefetches, assertions."""
    if node.op in ("placeholder", "output", "get_attr"):
        return False
    return node.op in ("call_module", "call_method") or target_has_effect(node.target)


@rests_on_traits
def target_has_effect(target: Any) -> bool:
    """`has_effect` for what is called: by its traits, its schema, and what torch knows of it."""
    traits = traits_of(target)
    return traits.effect or bool(traits.writes) or shows_effect(target)


@functools.cache
def shows_effect(target: Any) -> bool:
    """Whether the schema of an operator, or torch, says that it does more than compute."""
    if isinstance(target, torch._ops.OpOverload):
        namespace = target._schema.name.split("::")[0]
        if namespace in SIDE_EFFECT_NAMESPACES or declares_write(target):
            return True
        if not target._schema.returns:
            return True
        if namespace.startswith("_c10d"):
            return False  # to torch a wait is an effect; here it goes with what it waits for
    return bool(torch._library.utils.is_impure(target, impure_random=False))


def is_boundary(node: fx.Node) -> bool:
    """Whether a node has an effect that others must not be moved across; assertions only read."""
    return has_effect(node) and not traits_of(node.target).asserts


@functools.cache
def is_view_target(target: Any) -> bool:
    """Whether an operator returns its first argument's memory in another shape, by its schema."""
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    if target is torch.ops.aten._unsafe_view.default or target is torch.ops.aten.reshape.default:
        return True  # both may return the argument's memory though their schemas promise nothing
    return any(result.alias_info is not None for result in target._schema.returns)


def first(node: fx.Node) -> fx.Node:
    """A node's first argument, which is its input."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def is_view(node: fx.Node) -> bool:
    """Whether the node's value may share memory with its first argument."""
    return node.op == "call_function" and is_view_target(node.target)


def base(node: fx.Node) -> fx.Node:
    """The node that owns the memory behind `node`: itself, or what its views lead back to."""
    while True:
        if node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem":
            source = node.args[0]
            if isinstance(source, fx.Node) and is_view(source):
                node = source
                continue
            return node
        if not is_view(node):
            return node
        first = node.args[0] if node.args else next(iter(node.kwargs.values()))
        if not isinstance(first, fx.Node):
            return node
        node = first


def written_bases(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose memory some node writes, itself or through a view."""
    return {base(target) for node in graph.nodes for target in written(node)}


def plain_size(size: Any) -> int | None:
    """A size as a number, also where a guard has made one of a symbol; None for other symbols."""
    if isinstance(size, int):
        return size
    number = size.node.maybe_as_int()
    return None if number is None else int(number)


def settled_size(size: Any) -> Any:
    """A size, as a number where it is one."""
    number = plain_size(size) if isinstance(size, (int, torch.SymInt)) else None
    return size if number is None else number


def same_size(left: Any, right: Any) -> bool:
    """Whether two sizes are provably equal; symbols count as equal only where the shape rules prove
    it."""
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    symbolic = isinstance(left, torch.SymInt) and isinstance(right, torch.SymInt)
    if symbolic and left.node.expr == right.node.expr:
        return True
    return prove(left == right)


def same_sizes(left: Any, right: Any) -> bool:
    """`same_size` for whole shapes."""
    return len(left) == len(right) and all(map(same_size, left, right))


def same_strides(a: Tensor, b: Tensor) -> bool:
    """Whether tensors of one shape provably have the same strides, as far as these matter."""
    doubtful = unproven(a) or unproven(b)
    return not doubtful and agree(a.shape, a.stride(), b.stride())


def agree(shape: Sequence[Any], left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether strides are provably the same, but for those of dims of size 1."""
    return all(
        same_size(size, 1) or same_size(one, other)
        for size, one, other in zip(shape, left, right, strict=True)
    )


def unproven(fake: Any) -> str | None:
    """The operator because of which a value's strides may be others than it says; None where they
    are right."""
    return fake.__dict__.get(UNPROVEN) if isinstance(fake, Tensor) else None


def mark_unproven(fake: Any, doubt: str) -> None:
    """Say that the strides of a value may be others, because of an operator."""
    for part in fake if isinstance(fake, (list, tuple)) else (fake,):
        if isinstance(part, Tensor):
            setattr(part, UNPROVEN, doubt)
