"""Graphs for tests of the engine: traced, rewritten, and run against what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import Report, Rule
from ascend_passes.compile.stages import fuse, recognize
from ascend_passes.engine.normalize import normalize
from ascend_passes.engine.registry import rules
from ascend_passes.engine.rewrite import rewrite
from ascend_passes.ir import trace
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.graph import Context
from ascend_passes.meaning.recognize import by_meaning
from ascend_passes.options.value import Options
from ascend_passes.passes.deduplicate import deduplicate
from ascend_passes.verify.difference import other_kind
from ascend_passes.verify.exact import run_graph


def raw(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    dynamic: bool = False,
    fixed: int = 1,
    others: Sequence[Tensor] = (),
) -> fx.GraphModule:
    """The graph of `function` as it is traced.

    Args:
        function: of the inputs.
        inputs: examples.
        dynamic: make sizes symbols, equal ones the same symbol.
        fixed: last dims that keep their numbers, as a model's own sizes do.
        others: inputs of another size; what they have in common keeps its numbers, not the last
            dims.
    """
    shapes, dtypes = [tuple(t.shape) for t in inputs], [t.dtype for t in inputs]
    if dynamic:
        symbolic = trace.symbolic_inputs(shapes, dtypes, "cpu")
        frees = [
            [size != n for size, n in zip(shape, other.shape, strict=True)]
            for shape, other in zip(shapes, others, strict=False)
        ] or [[dim < len(shape) - fixed for dim in range(len(shape))] for shape in shapes]
        with trace.faking(trace.fake_mode_of(symbolic)):
            fakes = [
                torch.empty(tuple(map(pick, free, s.shape, shape)), dtype=s.dtype)
                for s, shape, free in zip(symbolic, shapes, frees, strict=True)
            ]
    else:
        fakes = trace.fake_inputs(shapes, dtypes, "cpu")
    return trace.trace(function, fakes)


def pick(free: bool, symbol: Any, number: int) -> Any:
    """A size of an input: a symbol where it is free."""
    return symbol if free else number


def traced(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    dynamic: bool = False,
    fixed: int = 1,
    others: Sequence[Tensor] = (),
) -> fx.GraphModule:
    """The normal graph of `function`; arguments as in `raw`."""
    gm = raw(function, inputs, dynamic, fixed, others)
    normalize(gm.graph)
    gm.recompile()
    return gm


def rewritten(
    gm: fx.GraphModule, chosen: Sequence[Rule], inputs: Sequence[Tensor], tolerance: float = 1e-5
) -> Report:
    """Rewrite `gm` in place; its results must stay those of the graph that it was."""
    return changed(lambda graph: rewrite(graph, chosen, Context()), gm, inputs, tolerance)


def recognized(gm: fx.GraphModule, inputs: Sequence[Tensor], tolerance: float = 1e-5) -> Report:
    """`rewritten`, by meaning."""
    return changed(lambda graph: by_meaning(graph, Context()), gm, inputs, tolerance)


def changed(
    stage: Callable[[fx.Graph], Report],
    gm: fx.GraphModule,
    inputs: Sequence[Tensor],
    tolerance: float,
) -> Report:
    """What a stage says that changes `gm` in place; its results must stay what they were, and lie
    in memory as they did."""
    original = fx.GraphModule(gm, copied(gm.graph))
    report = stage(gm.graph)
    gm.graph.lint()
    gm.recompile()
    before, after = (
        run_graph(one, [tensor.clone() for tensor in inputs]) for one in (original, gm)
    )
    torch.testing.assert_close(after, before, atol=tolerance, rtol=tolerance)
    assert not [
        said for old, new in zip(before, after, strict=True) if (said := other_kind(old, new))
    ]
    return report


def recognized_and_fused(graph: fx.Graph, context: Context | None = None) -> Report:
    """The stages `recognize` and `fuse`, as the pipeline runs them."""
    context = context or Context()
    found = recognize(graph, context)
    deduplicate(graph, context)
    return found + fuse(graph, context)


def rule_named(*names: str) -> list[Rule]:
    """Rules of the package."""
    known = {rule.name: rule for rule in rules(Options(rules="+*"))}
    return [known[name] for name in names]


def targets(gm: fx.GraphModule) -> list[str]:
    """The operators that a graph calls, in order."""
    return [str(node.target) for node in gm.graph.nodes if node.op == "call_function"]


def reasons(report: Report) -> str:
    """Every refusal of a report in one text."""
    return "; ".join(f"{miss.rule}: {miss.reason}" for miss in report.misses)
