"""What a graph was rewritten on: content of parameters that must be the same at each call."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from ascend_passes.ir.content import Snapshot, all_zero, same_bits
from ascend_passes.ir.graph import Context, base, written_bases

FACTS = "ascend_facts"
"""Key of a placeholder's meta entry that holds its facts."""
EQUAL_LIMIT = 65536
"""Elements of a tensor that is compared with others unless a pass asks for it by name."""


@dataclass(frozen=True)
class Fact:
    """A parameter that had the content of another, was one number, or was zero."""

    name: str
    """The parameter's placeholder."""
    twin: str | None = None
    """The placeholder that is read in its place; None where there is none."""
    number: float | None = None
    """The number that a parameter of one element holds; None where it is zero throughout, or has a
    twin."""

    def true(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether it is so now."""
        tensor = tensors[self.name]
        if self.number is not None:
            return tensor.numel() == 1 and float(tensor.item()) == self.number
        return all_zero(tensor) if self.twin is None else same_bits(tensor, tensors[self.twin])

    @property
    def names(self) -> tuple[str, ...]:
        """The placeholders that it is about."""
        return (self.name,) if self.twin is None else (self.name, self.twin)


def record(node: fx.Node, fact: Fact) -> None:
    """Note on a placeholder that the graph rests on a fact."""
    node.meta[FACTS] = (*node.meta.get(FACTS, ()), fact)


def facts_of(graph: fx.Graph) -> tuple[Fact, ...]:
    """The facts that a graph was rewritten on."""
    inputs = graph.find_nodes(op="placeholder")
    return tuple(fact for node in inputs for fact in node.meta.get(FACTS, ()))


def untouched(graph: fx.Graph, context: Context) -> dict[fx.Node, Tensor]:
    """The inputs that are parameters and that the graph neither writes nor returns; none where the
    graph must not rest on what they hold."""
    if not context.trust:
        return {}
    changed = written_bases(graph)
    returned = {base(node) for node in graph.output_node().all_input_nodes}
    return {
        node: context.constants[str(node.target)]
        for node in graph.find_nodes(op="placeholder")
        if str(node.target) in context.constants and node not in changed and node not in returned
    }


class Facts:
    """The facts of a compiled graph, checked at each call."""

    def __init__(self, facts: Iterable[Fact], positions: Mapping[str, int]) -> None:
        """
        Args:
            facts: what the graph was rewritten on.
            positions: placeholder -> where its value is among a call's inputs.
        """
        self.facts = tuple(facts)
        names = dict.fromkeys(name for fact in self.facts for name in fact.names)
        self.positions = {name: positions[name] for name in names}
        self.large: tuple[Fact, ...] = ()
        self.snapshot: Snapshot | None = None
        self.lock = threading.Lock()

    def hold(self, inputs: Sequence[Tensor]) -> bool:
        """Whether each of them is still true; they may have changed alike."""
        if not self.facts:
            return True
        tensors = {name: inputs[index] for name, index in self.positions.items()}
        if self.snapshot is not None and self.snapshot.matches(self.small(tensors)):
            return all(fact.true(tensors) for fact in self.large)
        if not all(fact.true(tensors) for fact in self.facts):
            return False
        with self.lock:
            self.large = tuple(fact for fact in self.facts if is_large(tensors[fact.name]))
            self.snapshot = Snapshot(self.small(tensors))
        return True

    def small(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """The tensors of which copies are kept, in an order of their own."""
        copied = [fact for fact in self.facts if fact not in self.large]
        return [tensors[name] for name in dict.fromkeys(n for f in copied for n in f.names)]

    def forget(self) -> None:
        """Look at the content itself at the next call."""
        self.snapshot = None


def is_large(tensor: Tensor) -> bool:
    """Whether a tensor is compared in place, since a copy would take much memory."""
    return tensor.device.type == "cpu" and tensor.numel() > EQUAL_LIMIT
