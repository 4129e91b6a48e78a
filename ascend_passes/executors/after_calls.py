"""A graph on a CPU: eager for its first calls, then Inductor's loops if they give the same bits.

A first call waits for no compiler, and who calls a graph often is not slower than Inductor by much.
Nobody can tell by the numbers which of the two ran: what is compiled is a loop only where the bits
cannot differ (`exact_loops`), and before it is used it runs once beside eager, on copies of what it
writes; where a bit, a stride or shared memory differs, the graph stays eager.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.executors import exact_loops
from ascend_passes.executors.inductor import Compiled, compiled_for, symbolic_places
from ascend_passes.executors.references import is_watched, on_cpu, with_references
from ascend_passes.ir import graph as facts
from ascend_passes.ir import trace
from ascend_passes.ir.arguments import is_random, named_arguments
from ascend_passes.ir.content import same_bits, storage_address
from ascend_passes.ir.trace_inductor import compile_with_inductor
from ascend_passes.ir.traits import traits_of
from ascend_passes.ir.wording import first_line
from ascend_passes.report.value import Report

CALLS = 4
"""The call, of those that nothing compiled fits, for whose sizes the graph is compiled. That takes
seconds: a prompt, a trial and a comparison are over before, and a loop of steps is not."""
MOST_COMPILED = 4
"""Sizes of one graph that are compiled for."""
LEAST_OPERATORS, MOST_OPERATORS = 32, 2000
"""Operators of a graph that is worth it: a layer of a model has about as many as the least; with
more than the most a compilation takes minutes, and products take most of a call."""


class CallsLog:
    """What the calls of a graph have come to; keeps nothing of the graph alive."""

    def __init__(self) -> None:
        self.said = ""

    def report(self) -> Report:
        """As a report's note."""
        return Report(notes=(self.said,) if self.said else ())


class AfterCalls:
    """Callable with the flat inputs of a graph that is worth it."""

    def __init__(self, gm: fx.GraphModule, values: Sequence[Any]) -> None:
        """
        Args:
            gm: the rewritten graph; not changed.
            values: one value for each placeholder, fake or real.
        """
        self.plain = on_cpu(gm)
        self.gm = gm
        self.places = tuple(symbolic_places(values))
        self.compiled: tuple[Compiled, ...] = ()
        self.calls = 0
        self.log = CallsLog()
        self.most = MOST_COMPILED
        self.written = written_inputs(gm.graph)
        self.lock = threading.Lock()

    def __call__(self, *inputs: Any) -> Any:
        """Run the graph."""
        fitting, watched = compiled_for(inputs, self.places, self.compiled), is_watched()
        if fitting is not None:
            return self.plain(*inputs) if watched else fitting.run(*inputs)
        self.calls += 1
        if watched or self.calls < CALLS or len(self.compiled) >= self.most:
            return self.plain(*inputs)
        return self.compiling(inputs)

    def compiling(self, inputs: Sequence[Any]) -> Any:
        """Run the graph, and compile it; eagerly while another thread compiles it."""
        if not self.lock.acquire(blocking=False):
            return self.plain(*inputs)
        try:
            self.calls = 0
            return self.tried(inputs)
        finally:
            self.lock.release()

    def tried(self, inputs: Sequence[Any]) -> Any:
        """Eager's results, after the compiled graph is held against them."""
        try:
            apart = [apart_of(x) if at in self.written else x for at, x in enumerate(inputs)]
            made = self.made(inputs)
            found = made.run(*apart)
        except Exception as error:  # an optimization never breaks the user's model
            self.give_up(f"Inductor failed: {type(error).__name__}: {first_line(error)}")
            return self.plain(*inputs)
        wanted = self.plain(*inputs)
        if same_results(found, apart, wanted, inputs):
            self.compiled = (*self.compiled, made)
            self.log.said = "Inductor's loops run, with the same bits"
        else:
            self.give_up("Inductor's loops gave other bits, strides or memory")
        return wanted

    def made(self, inputs: Sequence[Any]) -> Compiled:
        """The graph compiled for the sizes of these inputs."""
        from ascend_passes.ir import trace_loops  # imports Inductor

        settings = trace_loops.loops_alone(
            exact_loops.may_be_loop, exact_loops.loops_identity(), symbolic=bool(self.places)
        )
        table = trace_loops.decompositions(exact_loops.may_be_taken_apart, exact_loops.TAKEN_APART)
        gm = with_references(self.gm, "cpu")
        with trace.outside_compilation(), trace_loops.no_word_of_calls():
            run, holds = compile_with_inductor(gm, inputs, self.places, settings, table)
        return Compiled(holds, run)

    def give_up(self, reason: str) -> None:
        """Stay eager."""
        self.most, self.log.said = len(self.compiled), f"calls stay eager: {reason}"


def is_worth_it(graph: fx.Graph) -> bool:
    """Whether a graph is compiled: a model's, whose operators Inductor knows and may run twice."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    fitting = LEAST_OPERATORS <= len(calls) <= MOST_OPERATORS
    return fitting and all(may_run_twice(node) for node in calls)


def may_run_twice(node: fx.Node) -> bool:
    """Whether nobody notices that a node ran once more, on copies of what it writes."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return target.__module__ == "_operator"
    operator, traits = npu.operator_of(target), traits_of(target)
    if traits.effect or is_random(target, named_arguments(node)):
        return False
    if operator is not None:
        return operator.traceable
    quiet = facts.declares_write(target) or not facts.shows_effect(target)
    return target.namespace in ("aten", "prims") and quiet


def written_inputs(graph: fx.Graph) -> frozenset[int]:
    """Positions of the inputs whose memory a node writes."""
    positions = {node: at for at, node in enumerate(graph.find_nodes(op="placeholder"))}
    return frozenset(positions[node] for node in facts.written_bases(graph) if node in positions)


def apart_of(tensor: Tensor) -> Tensor:
    """A copy in memory of its own, with the same strides."""
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return made.copy_(tensor)


def same_results(
    found: Sequence[Any], apart: Sequence[Any], wanted: Sequence[Any], inputs: Sequence[Any]
) -> bool:
    """Whether results, inputs after the call, and what shares memory are the same."""
    pairs = zip((*found, *apart), (*wanted, *inputs), strict=True)
    return sharing(found, apart) == sharing(wanted, inputs) and all(
        a is b or is_same(a, b) for a, b in pairs
    )


def is_same(a: Any, b: Any) -> bool:
    """Whether two values are the same in dtype, shape, strides and every bit, but which NaN."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and a == b
    kinds = [(x.dtype, x.shape, x.stride()) for x in (a, b)]
    return kinds[0] == kinds[1] and same_bits(one_nan(a), one_nan(b))


def one_nan(tensor: Tensor) -> Tensor:
    """The tensor with one kind of NaN."""
    floating = tensor.dtype.is_floating_point
    return tensor.masked_fill(tensor.isnan(), math.nan) if floating else tensor


def sharing(results: Sequence[Any], inputs: Sequence[Any]) -> list[int]:
    """For each result the first value, of inputs and results, whose memory it has."""
    places = [storage_address(x) if isinstance(x, Tensor) else 0 for x in (*inputs, *results)]
    return [places.index(place) for place in places[len(inputs) :]]
