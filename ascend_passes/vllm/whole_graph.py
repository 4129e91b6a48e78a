"""The backend of the modes that hand over a whole model; vLLM can keep its result on disk."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from vllm.compilation.caching import SerializableCallable, VllmSerializableFunction

from ascend_passes.backend import compile_graph, keep_quietly
from ascend_passes.ir import trace
from ascend_passes.options.value import Options
from ascend_passes.report.value import Report
from ascend_passes.vllm import scope, summary
from ascend_passes.vllm.request import configured_options


@dataclass(frozen=True)
class WholeGraphBackend:
    """`torch.compile` backend for one model: nothing of it reaches another, drafts included."""

    options: Options
    model: str
    tag: str

    @classmethod
    def of(cls, vllm_config: Any, tag: str = "") -> WholeGraphBackend:
        """The backend for the model with this tag, or for the one that is being built."""
        tag = tag or scope.present_tag()
        options = scope.scoped(configured_options(vllm_config), tag)
        return cls(options, scope.model_name(vllm_config, tag), tag)

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> CompiledModel:
        """The compiled model, in the form that vLLM can store."""
        return CompiledModel(gm, self.tag, self.compile(gm, list(example_inputs)))

    def compile(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Compile a Dynamo graph; the report of each variant is logged when it is made."""

        def keep(report: Report, options: Options, _: object) -> None:
            keep_quietly(report)
            summary.log(report, self.model, options.explain)

        with trace.without_artifacts():
            return compile_graph(gm, example_inputs, self.options, keep)


class CompiledModel(SerializableCallable):  # type: ignore[misc]
    """A compiled model that vLLM's ahead-of-time cache can store, as its traced graph.

    Loading skips Dynamo, the long part of a start; the passes run again on the stored graph, so
    that what runs is always what the present sources give.
    """

    def __init__(self, graph: fx.GraphModule, tag: str, call: Callable[..., Any] | None) -> None:
        self.graph = graph
        self.tag = tag
        self.call = call

    def __call__(self, *args: Any) -> Any:
        """Run the model on a graph's flat inputs."""
        assert self.call is not None, "finalize_loading makes a loaded model callable"
        return self.call(*args)

    @classmethod
    def serialize_compile_artifacts(cls, fn: CompiledModel) -> bytes:
        """The traced graph and the model's tag as bytes."""
        for node in fn.graph.graph.nodes:  # live modules and functions cannot be stored
            node.meta.pop("nn_module_stack", None)
            node.meta.pop("source_fn_stack", None)
        return pickle.dumps((VllmSerializableFunction.serialize_graph_module(fn.graph), fn.tag))

    @classmethod
    def deserialize_compile_artifacts(cls, data: bytes) -> CompiledModel:
        """A model that `finalize_loading` will compile."""
        mode = trace.fake_mode_of([])
        stored, tag = pickle.loads(data)
        graph = VllmSerializableFunction.deserialize_graph_module(stored, mode)
        graph.recompile()
        for node in graph.graph.find_nodes(op="placeholder"):
            node._dynamo_source = (
                None  # AOTAutograd asks for it; no guards are made of a loaded graph
            )
        return cls(graph, tag, None)

    def finalize_loading(self, vllm_config: Any) -> None:
        """Compile the loaded graph; vLLM calls this once the sources proved unchanged."""
        if self.call is not None:
            return
        placeholders = self.graph.graph.find_nodes(op="placeholder")
        inputs = [node.meta["example_value"] for node in placeholders]
        context = torch._guards.TracingContext(trace.fake_mode_of(inputs))
        with torch._guards.tracing(context):
            self.call = WholeGraphBackend.of(vllm_config, self.tag).compile(self.graph, inputs)
