"""Work on parameters alone leaves the step; facts about parameters' content are checked each call.

`fold_constants` moves what is computed from parameters into a prologue, which runs again only when
a source has changed. `merge_equal` lets parameters of equal content share one input; it records the
`Fact` on the placeholder, and the caller runs the unmerged graph when `facts_hold` says no.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from ascend_passes.graph import (
    Context,
    base,
    has_effect,
    operator_name,
    place,
    value,
    written,
)
from ascend_passes.normalize import remove_dead
from ascend_passes.options import MEBIBYTE
from ascend_passes.report import Miss, Report
from ascend_passes.trace import not_faking

VALUE_LIMIT = MEBIBYTE
"""Bytes of one folded value: its source stays in memory beside it, so weights are not folded."""
TOTAL_LIMIT = 64 * MEBIBYTE
"""Bytes of all folded values of a graph."""
EQUAL_LIMIT = 65536
"""Elements of a tensor that is compared with others unless a pass asks for it by name."""
FACT = "ascend_fact"
"""Key of a placeholder's meta entry that holds its `Fact`."""
State = tuple[int, int]


@dataclass(frozen=True)
class Folded:
    """What was moved out of a graph, whose last placeholders now take it."""

    prologue: fx.GraphModule
    """Sources to values."""
    positions: tuple[int, ...]
    """Indices of the sources among the graph's inputs."""
    outputs: tuple[str, ...]
    """Names of the new placeholders, in the order of the prologue's results."""
    report: Report


@dataclass
class FoldedValues:
    """Runs the prologue when a source has changed, into memory that keeps its address."""

    folded: Folded
    state: tuple[State, ...] | None = None
    values: list[Tensor] = field(default_factory=list)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The values for the new placeholders, given the graph's other inputs.

        Writes through `Tensor.data` and by the replay of a device graph leave no trace that could
        be seen; call `reset` after one.
        """
        sources = [inputs[index] for index in self.folded.positions]
        state = tuple(map(state_of, sources))
        if state != self.state:
            with torch.no_grad():
                self.store(self.folded.prologue(*sources))
            self.state = state
        return self.values

    def store(self, values: Sequence[Tensor]) -> None:
        """Keep new values, in the memory of the old ones where these fit."""
        same = len(values) == len(self.values) and all(
            old.shape == new.shape and old.device == new.device
            for old, new in zip(self.values, values, strict=True)
        )
        if not same:
            self.values = list(values)
            return
        for old, new in zip(self.values, values, strict=True):
            old.copy_(new)

    def reset(self) -> None:
        """Run the prologue again at the next call."""
        self.state = None


@dataclass(frozen=True)
class Fact:
    """Parameters that had equal content when a graph was rewritten on the strength of it."""

    names: tuple[str, ...]
    """Placeholders: the one that is used, then the one that it replaces."""
    states: tuple[State, ...]


def state_of(tensor: Tensor) -> State:
    """Address and version: both stay as long as nobody writes or exchanges the tensor."""
    return tensor.data_ptr(), tensor._version


def fold_constants(gm: fx.GraphModule, context: Context, layouts: bool = False) -> Folded | None:
    """Move work on parameters alone out of `gm`, in place; None where there is none.

    Args:
        gm: a graph whose inputs are tensors; it gets one more input for each folded value.
        context: `constants` names the inputs that are parameters or buffers.
        layouts: also fold copies of whole weights in another layout; they double the memory.
    """
    graph = gm.graph
    inputs = graph.find_nodes(op="placeholder")
    constant = constant_nodes(graph, context)
    chosen: list[fx.Node] = []
    misses: list[Miss] = []
    total = 0
    for node in (n for n in graph.nodes if n in constant and n not in inputs):
        if base(node) in inputs or all(user in constant for user in node.users):
            continue
        size = value(node).nbytes
        if not layouts and (size > VALUE_LIMIT or total + size > TOTAL_LIMIT):
            reason = "it would stay in memory beside its source: over 1 MiB, or 64 MiB in all"
            misses.append(Miss("fold_constants", node.name, place(node), reason))
            continue
        total += size
        chosen.append(node)
    if not chosen:
        return None
    prologue, sources = extract(gm, chosen, inputs)
    names = tuple(new_inputs(graph, chosen, inputs))
    gm.recompile()
    note = f"{len(chosen)} values of {total} bytes are computed once, not in each step"
    report = Report({"fold_constants": len(chosen)}, tuple(misses), notes=(note,))
    return Folded(prologue, tuple(inputs.index(node) for node in sources), names, report)


def constant_nodes(graph: fx.Graph, context: Context) -> set[fx.Node]:
    """The parameters, and the pure nodes that are computed from nothing else."""
    changed = {base(target) for node in graph.nodes for target in written(node)}
    returned = {base(node) for node in graph.output_node().all_input_nodes}
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if base(node) in changed:
            continue
        if node.op == "placeholder":
            if keeps_track(context.constants.get(str(node.target))):
                found.add(node)
        elif (
            base(node) not in returned and foldable(node) and found.issuperset(node.all_input_nodes)
        ):
            found.add(node)
    return found


def keeps_track(tensor: Tensor | None) -> bool:
    """Whether there is a tensor, and its version counts writes; inference tensors have none."""
    return tensor is not None and not tensor.is_inference()


def foldable(node: fx.Node) -> bool:
    """Whether a node gives the same for the same inputs, and tensors of known size only."""
    if node.op != "call_function" or has_effect(node):
        return False
    if node.target is not operator.getitem:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or target.namespace.startswith("_c10d"):
            return False
        if torch.Tag.nondeterministic_seeded in target.tags or "empty" in operator_name(node):
            return False
    fake = value(node)
    if isinstance(fake, (tuple, list)):
        return all(isinstance(part, Tensor) for part in fake)
    return isinstance(fake, Tensor) and all(isinstance(size, int) for size in fake.shape)


def extract(
    gm: fx.GraphModule, chosen: Sequence[fx.Node], inputs: Sequence[fx.Node]
) -> tuple[fx.GraphModule, list[fx.Node]]:
    """A graph that computes the chosen nodes, and the inputs that it reads."""
    needed: set[fx.Node] = set()
    stack = list(chosen)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += node.all_input_nodes
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in gm.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in chosen))
    return fx.GraphModule(gm, graph), [node for node in inputs if node in needed]


def new_inputs(
    graph: fx.Graph, chosen: Iterable[fx.Node], inputs: Sequence[fx.Node]
) -> Iterator[str]:
    """Replace the chosen nodes by placeholders behind the last one; yields their names."""
    last = inputs[-1] if inputs else None
    for node in chosen:
        point = graph.inserting_after(last) if last is not None else graph.inserting_before(None)
        with point:
            new = graph.placeholder(f"folded_{node.name}")
        new.meta = {**node.meta, "ascend_rule": "fold_constants"}
        node.replace_all_uses_with(new)
        last = new
        yield str(new.target)
    remove_dead(graph)


def merge_equal(
    graph: fx.Graph, context: Context, names: Iterable[str] | None = None
) -> Mapping[str, str]:
    """Let parameters of equal content share one placeholder; merged name -> the one that is used.

    Args:
        graph: edited in place; the merged placeholders stay, unused.
        context: `constants` holds the content.
        names: what to compare, of any size; otherwise every parameter of at most 65536 elements.
    """
    inputs = {str(node.target): node for node in graph.find_nodes(op="placeholder")}
    changed = {base(target) for node in graph.nodes for target in written(node)}
    groups: dict[tuple[object, ...], list[str]] = {}
    merged: dict[str, str] = {}
    for name in inputs if names is None else names:
        tensor = context.constants.get(name)
        if tensor is None or not keeps_track(tensor) or inputs[name] in changed:
            continue
        if names is None and tensor.numel() > EQUAL_LIMIT:
            continue
        alike = groups.setdefault(
            (tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride()), []
        )
        twin = next((n for n in alike if equal_bits(context.constants[n], tensor)), None)
        if twin is None:
            alike.append(name)
            continue
        states = (state_of(context.constants[twin]), state_of(tensor))
        inputs[name].meta[FACT] = Fact((twin, name), states)
        inputs[name].replace_all_uses_with(inputs[twin])
        merged[name] = twin
    return merged


def equal_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bits; -0.0 is not 0.0."""
    if one.device.type == "meta":
        return False
    if one is other or (one.data_ptr() == other.data_ptr() and one.stride() == other.stride()):
        return True
    with not_faking():
        a, b = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
        return torch.equal(a, b)


def facts_of(graph: fx.Graph) -> tuple[Fact, ...]:
    """The facts that a graph was rewritten on."""
    inputs = graph.find_nodes(op="placeholder")
    return tuple(node.meta[FACT] for node in inputs if FACT in node.meta)


def facts_hold(facts: Iterable[Fact], tensors: Mapping[str, Tensor]) -> bool:
    """Whether none of the tensors has been written or exchanged since; looks at no content."""
    return all(
        tuple(state_of(tensors[name]) for name in fact.names) == fact.states for fact in facts
    )
