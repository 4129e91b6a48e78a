"""Work on parameters alone leaves the step.

`fold_constants` moves what is computed from parameters into a prologue, which runs again only when
a source has changed.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from ascend_passes.engine.normalize import remove_dead
from ascend_passes.ir.content import Snapshot, comparable
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import (
    Context,
    base,
    has_effect,
    operator_name,
    place,
    value,
    written_bases,
)
from ascend_passes.options.value import MEBIBYTE
from ascend_passes.report.value import Miss, Report

FOLDED = "ascend_folded"
"""Key of the output node's meta entry that holds what was folded."""
VALUE_LIMIT = MEBIBYTE
"""Bytes of one folded value, and of the sources that a CPU compares for it at each call."""
TOTAL_LIMIT = 64 * MEBIBYTE
"""Bytes of all folded values of a graph, and of all the sources that a CPU compares."""
NAMESPACES = ("aten", "prims", "npu", "quantized_decomposed")
"""Whose operators compute the same from the same; one of the user's own may count its calls."""


@dataclass(frozen=True)
class Folded:
    """What was moved out of a graph, whose last placeholders now take it."""

    prologue: fx.GraphModule
    """Sources to values."""
    positions: tuple[int, ...]
    """Indices of the sources among the graph's inputs."""
    outputs: tuple[str, ...]
    """Names of the new placeholders, in the order of the prologue's results."""


def folded_of(graph: fx.Graph) -> Folded | None:
    """What `fold_constants` moved out of a graph."""
    folded: Folded | None = graph.output_node().meta.get(FOLDED)
    return folded


@dataclass
class FoldedValues:
    """Runs the prologue when a source has changed, into memory that keeps its address."""

    folded: Folded
    snapshot: Snapshot | None = None
    values: list[Tensor] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The values for the new placeholders, given the graph's other inputs."""
        sources = [inputs[index] for index in self.folded.positions]
        if self.snapshot is None or not self.snapshot.matches(sources):
            with self.lock, torch.inference_mode(False), torch.no_grad():
                snapshot = Snapshot(sources)
                self.store(self.folded.prologue(*sources))
                self.snapshot = snapshot
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

    def forget(self) -> None:
        """Run the prologue again at the next call."""
        self.snapshot = None


def fold_constants(graph: fx.Graph, context: Context) -> Report:
    """Move work on parameters alone out of a graph, in place; `folded_of` has it from there on.

    Args:
        graph: its inputs are tensors; it gets one more input for each folded value.
        context: `constants` names the inputs that are parameters or buffers; without `folds`
            nothing is done, since nobody would give those further inputs.
    """
    if not context.folds:
        return Report()
    inputs = graph.find_nodes(op="placeholder")
    sources = constant_nodes(graph, context)
    chosen: list[fx.Node] = []
    misses: list[Miss] = []
    used, compared = 0, Compared(context)
    for node in fold_candidates(sources):
        size = value(node).nbytes
        reason = compared.refusal(sources[node])
        if size > VALUE_LIMIT or used + size > TOTAL_LIMIT:
            reason = "it would stay in memory beside its source: over 1 MiB, or 64 MiB in all"
        if reason is not None:
            misses.append(Miss("fold_constants", node.name, place(node), reason))
            continue
        compared.add(sources[node])
        used += size
        chosen.append(node)
    if not chosen:
        return Report(misses=tuple(misses))
    prologue, read = extract(graph, chosen, inputs)
    names = tuple(new_inputs(graph, chosen, inputs))
    positions = tuple(inputs.index(node) for node in read)
    graph.output_node().meta[FOLDED] = Folded(prologue, positions, names)
    note = f"{len(chosen)} values of {used} bytes are computed once, not in each step"
    return Report({"fold_constants": len(chosen)}, tuple(misses), notes=(note,))


class Compared:
    """The bytes that each call compares, since only content tells that a CPU's tensors changed."""

    def __init__(self, context: Context) -> None:
        self.constants = context.constants
        self.sources: set[fx.Node] = set()

    def refusal(self, sources: Iterable[fx.Node]) -> str | None:
        """Why a value of these sources should not be folded."""
        every = {*sources, *self.sources}
        if self.size(sources) <= VALUE_LIMIT and self.size(every) <= TOTAL_LIMIT:
            return None
        return "its sources would be compared at each call: over 1 MiB, or 64 MiB in all"

    def size(self, sources: Iterable[fx.Node]) -> int:
        """Bytes of the sources that are on the CPU."""
        tensors = [self.constants[str(node.target)] for node in sources]
        return sum(tensor.nbytes for tensor in tensors if tensor.device.type == "cpu")

    def add(self, sources: Iterable[fx.Node]) -> None:
        """Count sources from now on."""
        self.sources |= set(sources)


def fold_candidates(sources: Mapping[fx.Node, frozenset[fx.Node]]) -> list[fx.Node]:
    """The tensors that others than constants read, but for views of the parameters.

    Of an operator with several results each is one; where the graph returns another of them, the
    operator stays for that one. An expanded tensor has no memory of its own to be kept in, so that
    what it expands is kept.
    """
    found: dict[fx.Node, None] = {}
    for node in sources:
        if base(node).op == "placeholder" or not isinstance(value(node), Tensor):
            continue
        if any(user not in sources for user in node.users):
            found[base(node) if overlaps(value(node)) else node] = None
    return list(found)


def overlaps(tensor: Tensor) -> bool:
    """Whether two elements of a tensor may lie at one place."""
    extent = 1
    steps = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted(step for step in steps if step[1] > 1):
        if stride < extent:
            return True
        extent += stride * (size - 1)
    return False


def constant_nodes(graph: fx.Graph, context: Context) -> dict[fx.Node, frozenset[fx.Node]]:
    """The parameters, and the pure nodes that come from nothing else, each with its sources."""
    changed = written_bases(graph)
    returned = {base(node) for node in graph.output_node().all_input_nodes}
    found: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        if base(node) in changed:
            continue
        if node.op == "placeholder":
            if comparable(context.constants.get(str(node.target))):
                found[node] = frozenset([node])
        elif base(node) not in returned and foldable(node):
            known = [found.get(source) for source in node.all_input_nodes]
            if None not in known:
                found[node] = frozenset().union(*filter(None, known))
    return found


def foldable(node: fx.Node) -> bool:
    """Whether a node gives the same for the same inputs, and tensors of known size only."""
    if node.op != "call_function" or has_effect(node):
        return False
    target = node.target
    if target is not operator.getitem:
        if not isinstance(target, torch._ops.OpOverload) or target.namespace not in NAMESPACES:
            return False
        if torch.Tag.nondeterministic_seeded in target.tags or "empty" in operator_name(node):
            return False
    fake = value(node)
    parts = fake if isinstance(fake, (tuple, list)) else (fake,)
    return all(isinstance(part, Tensor) and fixed_size(part) for part in parts)


def fixed_size(tensor: Tensor) -> bool:
    """Whether no size of a tensor is a symbol."""
    return all(isinstance(size, int) for size in tensor.shape)


def extract(
    whole: fx.Graph, chosen: Sequence[fx.Node], inputs: Sequence[fx.Node]
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
    for node in whole.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in chosen))
    prologue = fx.GraphModule(whole.owning_module or {}, graph)
    return prologue, [node for node in inputs if node in needed]


def new_inputs(
    graph: fx.Graph, chosen: Iterable[fx.Node], inputs: Sequence[fx.Node]
) -> Iterator[str]:
    """Replace the chosen nodes by placeholders behind the last one; yields their names."""
    last = inputs[-1] if inputs else None
    for node in chosen:
        behind = last.next if last is not None else next(iter(graph.nodes))
        with Editor(graph, "fold_constants").at(node, behind) as edit:
            new = edit.input(f"folded_{node.name}", value(node))
        node.replace_all_uses_with(new)
        last = new
        yield str(new.target)
    remove_dead(graph)
