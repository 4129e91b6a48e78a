"""Our passes as one pass in another compiler: vLLM's Inductor hook or a platform's pass manager."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from vllm.compilation.passes.inductor_pass import InductorPass, get_pass_context
from vllm.compilation.passes.vllm_inductor_pass import VllmInductorPass

from ascend_passes.backend import keep_quietly
from ascend_passes.compile.variant import device_type, optimize_module
from ascend_passes.engine.registry import identity
from ascend_passes.ir import trace
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.graph import Context
from ascend_passes.options.plans import Plan, pick, plans
from ascend_passes.options.value import Options
from ascend_passes.report.dump import dumped
from ascend_passes.vllm import scope, summary
from ascend_passes.vllm.request import options_from_config, section_of


class AscendDensePass(VllmInductorPass):  # type: ignore[misc]
    """All stages on one graph of functional aten; vLLM sends this object to its worker processes.

    The base class keeps a reference to the configuration that holds this very object and cannot be
    sent, so that its constructor is not called; what it offers beside is timing and dumps.
    """

    def __init__(
        self, section: Mapping[str, Any] | None, model: str, inductor: bool, tag: str = scope.MAIN
    ) -> None:
        self.section, self.model = dict(section or {}), model
        self.inductor, self.tag = inductor, tag

    @classmethod
    def of(cls, vllm_config: Any) -> AscendDensePass:
        """The pass for the model that is being built under this configuration."""
        section, tag = section_of(vllm_config), scope.present_tag()
        name = scope.model_name(vllm_config, tag) if vllm_config.model_config else "model"
        return cls(section, name, vllm_config.compilation_config.backend == "inductor", tag)

    def __call__(self, graph: fx.Graph | fx.GraphModule) -> None:
        """Rewrite the graph in place; vLLM hands over a graph, vllm-ascend its module.

        Raises:
            ExpectationError: fewer fusions than the options expect.
        """
        graph = graph.graph if isinstance(graph, fx.GraphModule) else graph
        options = scope.scoped(options_from_config(self.section), self.tag)
        where, plan = token_range(options)
        run_passes(graph, options, plan, self.model, where)
        if self.inductor:
            lower_casts(graph)

    def uuid(self) -> str:
        """Our identity and the range of tokens, for compile caches."""
        where, _ = token_range(options := options_from_config(self.section))
        return str(InductorPass.hash_dict({"identity": identity(options), "range": where}))


def token_range(options: Options) -> tuple[str, Plan]:
    """The range of tokens that is being compiled, in words, and its plan.

    A range lies in one plan, since `settings` ends a range wherever a plan ends.
    """
    choices = plans(options)
    try:
        compile_range = get_pass_context().compile_range
    except AssertionError:  # a whole model, compiled outside of vLLM's ranges
        return "", choices[0]
    plan = pick(choices, compile_range.end)
    most = min(plan.high, compile_range.end)  # vLLM schedules no more than its last range has
    where = f", {compile_range.start} to {compile_range.end} tokens"
    return where, dataclasses.replace(plan, high=most)


def run_passes(graph: fx.Graph, options: Options, plan: Plan, label: str, where: str) -> None:
    """Run all stages on a copy, and make `graph` that copy's result: others hold this object.

    Args:
        graph: a whole model, or a piece of the one in `scope.present()`.
        options: the user's.
        plan: the plan of the range of tokens.
        label: name of a whole model.
        where: the range of tokens in words.

    Raises:
        ExpectationError: fewer fusions in a whole model than the options expect.
    """
    model = scope.present()
    asked = options if model is None else dataclasses.replace(options, expect={})
    scratch = fx.GraphModule(graph.owning_module or {}, copied(graph))
    with trace.outside_compilation():
        report = optimize_module(scratch, Context(asked, plan, {}, device_type(graph)))
    for node in reversed(list(graph.nodes)):
        graph.erase_node(node)
    nodes: dict[fx.Node, fx.Node] = {}
    for node in scratch.graph.nodes:
        nodes[node] = graph.node_copy(node, nodes.__getitem__)
    report = dumped(report, plan, options)
    keep_quietly(report)
    if model is None:
        summary.log(report, f"{label}{where}", options.explain)
    else:
        model.reports.setdefault(where, []).append(report)


def lower_casts(graph: fx.Graph) -> None:
    """Spell casts as Inductor wants them after its decompositions."""
    convert = torch.ops.prims.convert_element_type.default
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten._to_copy.default):
        if set(node.kwargs) <= {"dtype"}:
            node.args, node.kwargs = (node.args[0], node.meta["val"].dtype), {}
            node.target = convert


class AscendDensePassManager(InductorPass):  # type: ignore[misc]
    """A pass manager for platforms where vLLM's own cannot run: ours alone, and what is added."""

    def __init__(self) -> None:
        self.passes: list[InductorPass] = []

    def configure(self, vllm_config: Any) -> None:
        """Nothing to configure: `settings` adds our pass as it does on every platform."""

    def add(self, added: InductorPass) -> None:
        """Append a pass."""
        self.passes.append(added)

    def __call__(self, graph: fx.Graph) -> None:
        """Run the passes that apply to the range of tokens being compiled."""
        compile_range = get_pass_context().compile_range
        for one in self.passes:
            if one.is_applicable_for_range(compile_range):
                one(graph)

    def uuid(self) -> str:
        """The passes' identities."""
        return str(InductorPass.hash_dict({"passes": [one.uuid() for one in self.passes]}))
