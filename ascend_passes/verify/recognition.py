"""Is a recognition right: its spelling becomes the operator, alone and under its own name, with
results as near to float64 as it says, and with symbolic rows as well; and its page for people."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.engine.normalize import normalize
from ascend_passes.ir import trace
from ascend_passes.ir.blueprint import copied_module
from ascend_passes.ir.graph import Context
from ascend_passes.meaning.family import Recognition
from ascend_passes.meaning.recognize import by_meaning, recognitions
from ascend_passes.options.value import Options
from ascend_passes.report.value import Report
from ascend_passes.verify import Finding
from ascend_passes.verify.difference import other_kind
from ascend_passes.verify.exact import distance, run_exactly, run_graph, unit
from ascend_passes.verify.firing import told
from ascend_passes.verify.rule_page import listing

MORE_ROWS = 3
"""Rows that are added to each kind of them, where a graph serves any number."""
RecognitionCheck = Callable[[str, Recognition, int], Iterator[str]]


def check_recognition(name: str, seed: int | None = None) -> list[Finding]:
    """The faults that all checks find in a recognition.

    Args:
        name: of the recognition.
        seed: of the example's numbers; a fresh one where none is given. Sentences name it.

    Raises:
        KeyError: there is no such recognition.
    """
    _, one = recognitions()[name]
    seed = secrets.randbelow(2**31) if seed is None else seed
    found: list[Finding] = []
    for asked in RECOGNITION_CHECKS:
        try:
            sentences = list(asked(name, one, seed))
        except Exception as error:
            sentences = [f"raised {type(error).__name__}: {error}"]
        found += [Finding(asked.__name__, name, f"{one} (seed {seed})") for one in sentences]
    return found


def has_a_sentence(name: str, one: Recognition, seed: int) -> Iterator[str]:
    """It says in one sentence what becomes what."""
    if not one.summary.endswith(".") or " becomes " not in one.summary:
        yield "its summary does not say in a sentence what becomes what"


def becomes_its_operator(name: str, one: Recognition, seed: int) -> Iterator[str]:
    """Its spelling becomes one operator, under its name alone, and both agree."""
    inputs = example_of(one, seed)
    gm = spelled_graph(one, inputs)
    after, report = recognized(gm)
    if report.fired != {name: 1}:
        yield f"its spelling counts as {report.fired or 'nothing'}: {told(report)}"
        return
    yield from disagreements(one, inputs, gm, after)


def takes_symbolic_sizes(name: str, one: Recognition, seed: int) -> Iterator[str]:
    """It is found where leading sizes are symbolic as well, and the result serves other sizes."""
    inputs = example_of(one, seed)
    rows = leading_sizes(inputs)
    gm = spelled_graph(one, inputs, rows)
    after, report = recognized(gm)
    if report.fired != {name: 1}:
        yield f"with symbolic rows it counts as {report.fired or 'nothing'}: {told(report)}"
        return
    yield from disagreements(one, inputs, gm, after)
    yield from disagreements(one, [with_more(tensor, rows) for tensor in inputs], gm, after)


def is_switched_off(name: str, one: Recognition, seed: int) -> Iterator[str]:
    """The option `rules` switches it off, and `keep_nan` as well if it hides a NaN."""
    gm = spelled_graph(one, example_of(one, seed))
    off = [Options(rules=f"-{name}"), *([Options(keep_nan=True)] if one.hides_nan else [])]
    for options in off:
        if name in recognized(gm, options)[1].fired:
            yield f"fires although it is off (rules={options.rules!r}, keep_nan={options.keep_nan})"


RECOGNITION_CHECKS: tuple[RecognitionCheck, ...] = (
    has_a_sentence,
    becomes_its_operator,
    takes_symbolic_sizes,
    is_switched_off,
)


def example_of(one: Recognition, seed: int) -> list[Tensor]:
    """The tensors of the example, from a seed."""
    return list(one.example(torch.Generator().manual_seed(seed)))


def leading_sizes(inputs: Sequence[Tensor]) -> set[int]:
    """The sizes in front of the last dim of the first tensor that are nothing's width."""
    widths = {tensor.shape[-1] for tensor in inputs if tensor.dim() > 1}
    return set(inputs[0].shape[:-1]) - widths - {1}


def with_more(tensor: Tensor, rows: set[int]) -> Tensor:
    """A tensor with `MORE_ROWS` more along each dim whose size is one of these; they repeat."""
    for dim, size in enumerate(tensor.shape):
        if size in rows:
            index = torch.arange(size + MORE_ROWS) % size
            tensor = tensor.index_select(dim, index)
    return tensor


def spelled_graph(
    one: Recognition, inputs: Sequence[Tensor], dynamic: set[int] | None = None
) -> fx.GraphModule:
    """The normal graph of the spelling; sizes in `dynamic` are symbolic."""
    shapes, dtypes = [list(t.shape) for t in inputs], [t.dtype for t in inputs]
    fakes = (
        trace.symbolic_inputs(shapes, dtypes, "cpu", dynamic)
        if dynamic
        else trace.fake_inputs(shapes, dtypes, "cpu")
    )
    gm = trace.trace(one.spelled, fakes)
    normalize(gm.graph)
    gm.recompile()
    return gm


def recognized(gm: fx.GraphModule, options: Options | None = None) -> tuple[fx.GraphModule, Report]:
    """A copy of a normal graph after recognition, and what happened; the graph itself stays."""
    after, _ = copied_module(gm)
    report = by_meaning(after.graph, Context(options or Options()))
    after.recompile()
    return after, report


def disagreements(
    one: Recognition, inputs: Sequence[Tensor], before: fx.GraphModule, after: fx.GraphModule
) -> Iterator[str]:
    """How the operator's results differ from the spelling in float64 by more than `tolerance`."""
    columns = run_graph(before, inputs), run_graph(after, inputs), run_exactly(before, inputs)
    for index, (old, new, true) in enumerate(zip(*columns, strict=True)):
        sentence = other_kind(old, new)
        error = 0.0 if sentence else distance(new, true, unit(true, old.dtype))
        if error > one.tolerance:
            sentence = f"is {error:.3g} steps from float64, allowed are {one.tolerance:.3g}"
        if sentence is not None:
            yield f"result {index} {sentence} ({list(inputs[0].shape)})"


@dataclass(frozen=True)
class RecognitionPage:
    """What there is to say about a recognition."""

    name: str
    kind: str
    """`recognize`."""
    summary: str
    documentation: str
    """How its family finds it and what is asked of a piece before it is believed."""
    tolerance: float
    """As `Recognition.tolerance`."""
    limits: tuple[str, ...]
    """Each NPU operator with the source of its limits."""
    graph_before: str
    """Of one spelling among many."""
    graph_after: str
    source: str
    """The family's file."""


def recognition_page(name: str) -> RecognitionPage:
    """The page of a recognition; KeyError where there is none."""
    family, one = recognitions()[name]
    before = spelled_graph(one, example_of(one, 0))
    parameters = list(inspect.signature(one.spelled).parameters)
    for node, parameter in zip(before.graph.find_nodes(op="placeholder"), parameters, strict=False):
        node.name = parameter
    after, _ = recognized(before)
    calls = (npu.operator_of(node.target) for node in after.graph.nodes)
    operators = {operator.name: operator for operator in calls if operator is not None}
    return RecognitionPage(
        name=name,
        kind="recognize",
        summary=one.summary,
        documentation=inspect.cleandoc(inspect.getmodule(family.solve).__doc__ or ""),
        tolerance=one.tolerance,
        limits=tuple(f"`{operator.name}`: {operator.source}" for operator in operators.values()),
        graph_before=listing(before.graph),
        graph_after=listing(after.graph),
        source=inspect.getsourcefile(family.solve) or "",
    )
