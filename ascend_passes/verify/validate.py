"""Translation validation: what a rewrite or a stage computes, before and after, in float64.

Rounding is gone in float64, so that what still differs is another formula. The pieces' own
operators run as they are; an NPU operator runs by its reference, widened. Sampled inputs prove
nothing, but a wrong formula agrees with the right one on random values with no chance worth
counting.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.emission import Emission
from ascend_passes.engine.found import Found
from ascend_passes.ir.graph import Context, value
from ascend_passes.ir.trace import not_faking
from ascend_passes.ir.wording import first_line
from ascend_passes.passes.constants.fold import folded_of
from ascend_passes.verify.exact import Exact, distance, magnitude
from ascend_passes.verify.sample import number, sample

BOUND = 1e-9
"""Largest difference over the largest magnitude of a row; float64 sums of 25,600 terms in another
order differ by 1e-12."""
TIES = 2e-3
"""Share of integers that may differ by one: values at a rounding boundary fall to either side."""
MOST_ELEMENTS = 2**26
"""Elements of all values of a piece or graph: half a GiB in float64."""
SEED = 20_270_127


class ValidationError(RuntimeError):
    """A stage changed what the graph computes; the text says in which result and by how much."""


@dataclass(frozen=True)
class Baseline:
    """A graph's results on sampled inputs, for the stages that follow to be compared with."""

    inputs: tuple[Any, ...]
    results: tuple[Any, ...]
    """The graph's results, then its inputs as the graph left them."""

    @classmethod
    def of(cls, gm: fx.GraphModule, context: Context) -> Baseline | str:
        """The baseline of a graph as it is, or why it has none."""
        reason = unfit(gm.graph)
        if reason is not None:
            return reason
        source = torch.Generator().manual_seed(SEED)
        nodes = gm.graph.find_nodes(op="placeholder")
        with not_faking():
            sampled = [sample(node, context.constants, source) for node in nodes]
            for index, given in context.numbers.items():  # the graph is compiled for these alone
                sampled[index] = torch.tensor(given, dtype=torch.float64)
        inputs = tuple(sampled)
        try:
            return cls(inputs, everything(gm, inputs))
        except Exception as error:  # an operator refuses sampled inputs with whatever it likes
            return f"it does not run on sampled inputs: {type(error).__name__}: {first_line(error)}"

    def require_same(self, gm: fx.GraphModule) -> None:
        """Run the graph as it is now and compare.

        Raises:
            ValidationError: a result or an input that the graph writes differs.
        """
        results, left = run_widened(gm, (*self.inputs, *folded_values(gm.graph, self.inputs)))
        sentence = apart(self.results, results + left[: len(self.inputs)])
        if sentence is not None:
            raise ValidationError(f"validate: {sentence}")


def refuse_difference(found: Found, emission: Emission, context: Context) -> str | None:
    """How the replacement of a match computes something else, or None.

    A piece that is too large or cannot run on sampled inputs is not refused. What the replacement
    writes is not compared: `hazards` has made sure that nobody reads it.
    """
    before, after = matched(found), replaced(found, emission)
    if unfit(before.graph) is not None:
        return None
    nodes = inputs_of(found)
    source = torch.Generator().manual_seed(SEED)
    with not_faking():
        values = tuple(sample(node, context.constants, source) for node in nodes)
    try:
        wanted = run_widened(before, values)[0]
    except Exception:  # as above: then nothing is known, and the rule's own tests have to do
        return None
    sentence = apart(wanted, run_widened(after, values)[0])
    return f"validate: {sentence}" if sentence is not None else None


def matched(found: Found) -> fx.GraphModule:
    """The nodes of a match as a graph of its own."""
    nodes = sorted(node for node in found.nodes if node is not None)
    graph, new = with_inputs(found)
    for node in nodes:
        if node not in new:
            new[node] = graph.node_copy(node, new.__getitem__)
    graph.output(tuple(new[node] for node in found.outputs if node is not None))
    return fx.GraphModule(found.anchor.graph.owning_module or torch.nn.Module(), graph)


def replaced(found: Found, emission: Emission) -> fx.GraphModule:
    """The replacement as a graph that takes what `matched` takes."""
    graph, inputs = with_inputs(found)
    new: dict[fx.Node, fx.Node] = {}
    for node in emission.graph.nodes:
        if node.op == "placeholder":
            new[node] = inputs[found.inputs[node.meta["input"]]]
        elif node.op != "output":
            new[node] = graph.node_copy(node, new.__getitem__)
    pairs = zip(found.outputs, emission.outputs, strict=True)
    graph.output(tuple(new[node] for old, node in pairs if old is not None))
    return fx.GraphModule(torch.nn.Module(), graph)


def inputs_of(found: Found) -> list[fx.Node]:
    """Each distinct input of a match once, then what its nodes read beside: sizes."""
    nodes = {node for node in found.nodes if node is not None}
    read = (source for node in sorted(nodes) for source in node.all_input_nodes)
    beside = (source for source in read if source not in nodes)
    return list(dict.fromkeys((*found.inputs.values(), *beside)))


def with_inputs(found: Found) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A graph that takes each distinct input of a match once."""
    graph, new = fx.Graph(), {}
    for index, node in enumerate(inputs_of(found)):
        new[node] = graph.placeholder(f"input_{index}")
        new[node].meta["val"] = value(node)
    return graph, new


def unfit(graph: fx.Graph) -> str | None:
    """Why a graph is not run on sampled inputs."""
    elements = 0
    for node in graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target.namespace.startswith("_c10d"):
            return "its collectives need the other ranks"
        fakes = value(node) if isinstance(value(node), (list, tuple)) else (value(node),)
        for fake in (one for one in fakes if isinstance(one, Tensor)):
            sizes = [number(size) for size in fake.shape]
            if None in sizes:
                return "it has sizes that its data decides"
            elements += torch.Size(sizes).numel()
    if elements > MOST_ELEMENTS:
        return f"its values have {elements} elements, more than {MOST_ELEMENTS}"
    return None


def folded_values(graph: fx.Graph, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """What a graph takes behind its own inputs: values that were folded out of it."""
    folded = folded_of(graph)
    if folded is None:
        return ()
    return run_widened(folded.prologue, [inputs[index] for index in folded.positions])[0]


def everything(gm: fx.GraphModule, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """The results of a graph, then its inputs as it left them."""
    results, left = run_widened(gm, inputs)
    return results + left


def run_widened(
    gm: fx.GraphModule, inputs: Sequence[Any]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The results of a graph in float64, and its inputs as it left them; the given ones stay."""
    own = tuple(one.clone() if isinstance(one, Tensor) else one for one in inputs)
    with not_faking(), uninitialized_as_nan(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        found = Exact(gm).run(*own)
    return tuple(found) if isinstance(found, (list, tuple)) else (found,), own


@contextlib.contextmanager
def uninitialized_as_nan() -> Iterator[None]:
    """Memory that a graph allocates and does not write reads as NaN, not as lucky zeros."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=only_warns)


def apart(wanted: Sequence[Any], found: Sequence[Any]) -> str | None:
    """The first pair of values that are not the same, in words; None where all are."""
    for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
        sentence = wide_difference(one, other)
        if sentence is not None:
            return f"result {index} {sentence}"
    return None


def wide_difference(wanted: Any, found: Any) -> str | None:
    """How one value differs from another beyond rounding in float64."""
    if not isinstance(wanted, Tensor) or not isinstance(found, Tensor):
        return None if wanted == found else f"is {found}, not {wanted}"
    if wanted.shape != found.shape:
        return f"has shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    if wanted.is_complex():
        wanted, found = torch.view_as_real(wanted), torch.view_as_real(found)
    if not wanted.numel():
        return None
    if not wanted.dtype.is_floating_point:
        return integer_difference(wanted, found)
    return floating_difference(wanted, found.double())


def integer_difference(wanted: Tensor, found: Tensor) -> str | None:
    """How integers differ beyond ties."""
    steps = (wanted.long() - found.long()).abs()
    differing = steps.count_nonzero().item()
    if steps.max() <= 1 and differing <= max(1, TIES * steps.numel()):
        return None
    return f"differs in {differing} of {steps.numel()} integers, by {steps.max().item()} at most"


def floating_difference(wanted: Tensor, found: Tensor) -> str | None:
    """How float64 values differ by more than `BOUND` of their row's largest magnitude."""
    if distance(wanted, found, magnitude(wanted, rows=True)) <= BOUND:
        return None
    off, largest = distance(wanted, found, torch.ones(())), magnitude(wanted)
    return f"differs by {off:.3g} where the largest value is {largest.item():.3g}"


def notes_of(baseline: Baseline | str | None) -> tuple[str, ...]:
    """What a report says of a graph of which only the pieces were validated."""
    if not isinstance(baseline, str):
        return ()
    return (f"validate: its stages were not compared, since {baseline}",)
