"""Numbers that Python counts become inputs in device memory, so one captured graph serves them all.

A cache that counts its tokens in a Python integer hands another one to each step, and a captured
graph keeps every number as it was. Where a tensor takes such a number as an operand, the graph is
given a tensor of no dimensions instead, which the runner fills before each replay. A number that
decides something else, such as a slice, stays a part of what graph takes a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.capture.symbols import (
    Number,
    free_symbols,
    is_tensor,
    source_of_number,
    symbol_of,
)
from ascend_passes.capture.update import in_updated_list
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.ir.arguments import named_arguments, schema_order
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import arguments_by_name, value

aten = torch.ops.aten
LIFTED = "ascend_number"
"""Key of a new placeholder's meta entry, its `Lifted`."""
ARITHMETIC = ("add", "sub", "rsub", "mul", "remainder", "fmod", "floor_divide")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
BOUNDS = ("maximum", "minimum", "clamp", "clamp_min", "clamp_max")
BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor")
CHOICES = ("where", "fill", "masked_fill")
EXACT = (*ARITHMETIC, *COMPARISONS, *BOUNDS, *BITWISE, *CHOICES)
"""Operators that give integers the same result for a number and for a tensor that holds it."""
EXACT_IN_FLOAT = ("add", "sub", "mul", *COMPARISONS)
"""Those that do so for float32 and float64 as well: both ways round the number once and compute
once. Half precision is out: with a number it computes in float32, with a tensor the number is
rounded to it first."""
FILLED = {
    aten.full.default: "fill_value",
    aten.full_like.default: "fill_value",
    aten.new_full.default: "fill_value",
    aten.scalar_tensor.default: "s",
}
"""Operators that write one number everywhere."""
COUNTING = (aten.arange.start, aten.arange.start_step)


@dataclass(frozen=True)
class Lifted:
    """An input behind those of a call, int64 without dimensions."""

    number: Number
    """What it holds at a call."""
    device: torch.device

    def tensor(self, number: int) -> Tensor:
        """A new one."""
        return torch.full((), number, dtype=torch.int64, device=self.device)


def lift_numbers(gm: fx.GraphModule) -> int:
    """Give tensors the numbers that they take through new placeholders, behind the present ones.

    A placeholder is int64 without dimensions, on the device of the operator that reads it.

    Args:
        gm: a graph in AOTAutograd's calling convention, edited in place.

    Returns:
        How many placeholders are new.
    """
    graph = gm.graph
    inputs = graph.find_nodes(op="placeholder")
    counted = counted_symbols(inputs)
    made: dict[tuple[Any, torch.device], fx.Node] = {}
    for node in list(graph.nodes) if counted else ():
        names = taken_numbers(node, counted)
        if node.target in COUNTING:  # the end follows from the start
            names.pop("end", None)
        form = tensor_form(node, names) if names else None
        if form is None:
            continue
        for name, argument in names.items():
            key = (value(argument).node.expr, value(node).device)
            if key not in made:
                made[key] = placeholder(graph, [*inputs, *made.values()][-1], argument, node)
            names[name] = made[key]
        take_placeholders(node, form, names)
    remove_dead(graph)
    gm.recompile()
    return len(made)


def counted_symbols(inputs: Sequence[fx.Node]) -> frozenset[Any]:
    """The symbols that are numbers of their own: no input has one in its size or stride."""
    numbers, sizes = set(), set()
    for node in inputs:
        fake = value(node)
        if isinstance(fake, Tensor):
            layout = (*fake.shape, *fake.stride(), fake.storage_offset())
            sizes |= {symbol for size in layout for symbol in free_symbols(size)}
        elif symbol_of(fake) is not None:
            numbers.add(symbol_of(fake))
    return frozenset(numbers - sizes)


def taken_numbers(node: fx.Node, counted: frozenset[Any]) -> dict[str, fx.Node]:
    """The counted numbers that an operator takes, by the names of its arguments."""
    return {
        name: argument
        for name, argument, _ in arguments_by_name(node)
        if isinstance(argument, fx.Node)
        and isinstance(value(argument), torch.SymInt)
        and free_symbols(value(argument)) & counted
        and source_of_number(argument, node.graph) is not None
    }


def tensor_form(node: fx.Node, names: Mapping[str, Any]) -> Any:
    """The operator that takes tensors for these arguments and gives the same bits; None if none."""
    fake = value(node)
    if not isinstance(fake, Tensor):
        return None
    if node.target in COUNTING:
        return counting_form(node, names)
    if node.target in FILLED:
        exact = not fake.is_complex() and (
            not fake.is_floating_point() or holds_whole_numbers(fake)
        )
        return aten.fill.Tensor if exact and set(names) == {FILLED[node.target]} else None
    packet = getattr(node.target, "overloadpacket", None)
    operator = str(getattr(packet, "__name__", "")).rstrip("_")
    if operator not in EXACT or not all(map(is_exact(operator), tensor_operands(node))):
        return None
    if any(n == "alpha" and argument != 1 for n, argument, _ in arguments_by_name(node)):
        return None
    return next((form for form in overloads(packet) if takes_tensors(form, node, names)), None)


def counting_form(node: fx.Node, names: Mapping[str, Any]) -> Any:
    """`arange(n, n + 4)` is `arange(0, 4) + n`."""
    fake, given = value(node), named_arguments(node)
    known = isinstance(fake.shape[0], int) and isinstance(given.get("step", 1), int)
    known = known and set(names) == {"start"} and fake.dtype == torch.int64
    return aten.add.Tensor if known else None


def holds_whole_numbers(fake: Tensor) -> bool:
    """Whether a tensor holds integers, or floats of full precision."""
    return fake.dtype in (torch.float32, torch.float64)


def is_exact(operator: str) -> Any:
    """A function that says whether a tensor operand meets a number as it meets a tensor.

    A number has no say in the result's dtype; a tensor of no dims has one beside another such.
    """

    def exact(fake: Tensor) -> bool:
        if fake.is_complex() or (fake.is_floating_point() and operator not in EXACT_IN_FLOAT):
            return False
        if fake.is_floating_point():
            return holds_whole_numbers(fake)
        return fake.dim() > 0 or fake.dtype in (torch.int64, torch.bool)

    return exact


def tensor_operands(node: fx.Node) -> Iterator[Tensor]:
    """The tensors that an operator takes."""
    for argument in node.all_input_nodes:
        if is_tensor(argument):
            yield value(argument)


def overloads(packet: Any) -> Iterator[Any]:
    """The overloads of an operator that take and give tensors."""
    for name in packet.overloads():
        found = getattr(packet, name)
        if "out" not in name.split("_") and isinstance(found, torch._ops.OpOverload):
            yield found


def takes_tensors(form: Any, node: fx.Node, names: Mapping[str, Any]) -> bool:
    """Whether an overload has the arguments of a node, with tensors for these names."""
    entries = {entry.name: str(entry.type) for entry in node.target._schema.arguments}  # type: ignore[union-attr]
    given = {name for name, argument, _ in arguments_by_name(node) if argument is not None}
    return list(entries) == [entry.name for entry in form._schema.arguments] and all(
        str(entry.type) in ("Tensor", "Optional[Tensor]")
        if entry.name in names
        else str(entry.type) == entries[entry.name] or entry.name not in given
        for entry in form._schema.arguments
    )


def placeholder(graph: fx.Graph, last: fx.Node, number: fx.Node, reader: fx.Node) -> fx.Node:
    """A new input behind `last` for a number of the graph."""
    fake, found = value(reader), source_of_number(number, graph)
    assert found is not None  # `taken_numbers` asks for it
    with Editor(graph).at(reader, last.next) as edit:
        new = edit.input(f"number_{number.name}", fake.new_empty((), dtype=torch.int64))
    new.meta[LIFTED] = Lifted(found, fake.device)
    return new


def take_placeholders(node: fx.Node, form: Any, names: Mapping[str, fx.Node]) -> None:
    """Let a node take the placeholders in place of its numbers."""
    if node.target in COUNTING or node.target in FILLED:
        without_number(node, form, names)
        return
    given = named_arguments(node) | dict(names)
    node.target = form
    node.args, node.kwargs = schema_order(form, given)


def without_number(node: fx.Node, form: Any, names: Mapping[str, fx.Node]) -> None:
    """Let a node make its tensor for 0, and another operator bring in the number."""
    users = list(node.users)
    with Editor(node.graph).at(node, node.next) as edit:
        shifted = edit.same(form, node, *names.values())
    for user in users:
        user.replace_input_with(node, shifted)
    given = named_arguments(node)
    from_zero = dict.fromkeys(names, 0)
    if node.target in COUNTING:
        from_zero["end"] = value(node).shape[0] * given.get("step", 1)
    keywords = {name: from_zero.get(name, argument) for name, argument in node.kwargs.items()}
    positional = [from_zero.get(name, argument) for name, argument in given.items()]
    node.args, node.kwargs = tuple(positional[: len(node.args)]), keywords


def decider(number: fx.Node) -> fx.Node | None:
    """The first node whose tensors depend on an input number otherwise than by a placeholder.

    None where the number goes into other numbers, results and lists that are updated alone.
    """
    for user in number.users:
        if user.op == "output" or in_updated_list(user, number):
            continue
        if type(value(user)) is int or isinstance(value(user), torch.SymInt):
            found = decider(user)
            if found is not None:
                return found
            continue
        return user
    return None


def lifted_inputs(inputs: Sequence[fx.Node]) -> dict[int, Lifted]:
    """The placeholders that `lift_numbers` made, by position."""
    return {i: node.meta[LIFTED] for i, node in enumerate(inputs) if LIFTED in node.meta}
