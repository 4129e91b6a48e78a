"""Hands a rewritten graph to the engine that runs it; no code is generated here.

`npugraph_ex` and `torchair` are torch_npu's engines: the first replays captured ACL graphs, the
second compiles to CANN's graph IR. What they would do to our graph unasked is switched off, and
what they would get wrong is either prevented here or refused. Facts about them were read from
torch_npu 2.13 and are checked against that wheel by `tests/conformance`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from ascend_passes.executors.after_calls import CALLS, AfterCalls, is_worth_it
from ascend_passes.executors.inductor import SizedGraph
from ascend_passes.executors.references import on_cpu
from ascend_passes.ir import graph as facts
from ascend_passes.ir.trace import compiling
from ascend_passes.ir.traits import traits_of
from ascend_passes.npu.cuda.choose import has_triton
from ascend_passes.options.value import Options

Runner = Callable[..., Any]


class ExecutorError(RuntimeError):
    """The chosen executor cannot run here, or cannot run this graph; the text names the way out."""


def execute(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    device: str,
    static: Collection[int] = (),
    repeated: bool = False,
) -> Runner:
    """A callable that takes the graph's flat inputs and returns its flat outputs.

    Args:
        gm: the rewritten graph, at the level of AOTAutograd's inference graphs.
        example_inputs: one value per placeholder, fake or real.
        options: `executor` and `cudagraph_mode` are read.
        device: type of the device that runs the graph: npu, cuda or cpu.
        static: positions of the inputs that keep their memory between calls, such as parameters.
        repeated: whether what runs the graph may change after some calls, see `AfterCalls`.

    Raises:
        ExecutorError: the executor needs torch_npu and it is not here, or the graph has an operator
            that the executor has no way to run.
    """
    name = chosen(options, device)
    if name == "npugraph_ex":
        return npugraph_ex(gm, example_inputs, options, static)
    if name == "torchair":
        return torchair(gm, example_inputs)
    if name == "inductor":
        if device == "npu":
            raise ExecutorError(
                "executor 'inductor' is for CUDA and CPU; use 'npugraph_ex' on NPU."
            )
        return SizedGraph(gm, example_inputs, device)
    if device != "cpu":
        return gm.forward
    if repeated and options.executor == "auto" and is_worth_it(gm.graph):
        return AfterCalls(gm, example_inputs)
    return on_cpu(gm)


def chosen(options: Options, device: str) -> str:
    """The executor that `options.executor` comes to on this device; `auto` is resolved.

    On CUDA the fastest is Inductor around our kernels. On a CPU `auto` gives eager's numbers bit
    for bit, which Inductor's own exponentials and order of sums do not: it is eager, and where a
    graph is called often the loops that cannot change a bit are Inductor's (`AfterCalls`).
    """
    if options.executor != "auto":
        return options.executor
    if device == "cuda" and has_triton():
        return "inductor"
    return "npugraph_ex" if device == "npu" and has_torch_npu() else "eager"


WHY = {
    "npugraph_ex": "torch_npu's engine",
    "inductor": "around Triton kernels, the fastest on CUDA",
    "eager": "the references' numbers, bit for bit",
}


def choice_of_auto(options: Options, device: str, run: Runner | None = None) -> tuple[str, ...]:
    """What `auto` has come to and why, as a report's notes; nothing where it was not asked for.

    Args:
        options: `executor` is read.
        device: type of the device.
        run: what `execute` gave.
    """
    if options.executor != "auto" or options.off:
        return ()
    name = chosen(options, device)
    why = WHY[name]
    if device == "cuda" and name == "eager":
        why = "Triton, which Inductor and our kernels need, is not installed"
    if isinstance(run, AfterCalls):
        why += f"; after {CALLS} calls loops of Inductor's, if they keep the bits"
    return (f"executor auto is {name} on {device}: {why}",)


def captures_itself(executor: str, options: Options) -> bool:
    """Whether an executor captures graphs, or compiles to them, so that nobody else should."""
    if executor == "npugraph_ex":
        return options.cudagraph_mode == "FULL"
    return executor == "torchair"


def has_torch_npu() -> bool:
    """Whether torch_npu is installed."""
    return importlib.util.find_spec("torch_npu") is not None


def require_torch_npu(executor: str) -> None:
    """Import torch_npu.

    Raises:
        ExecutorError: it is missing or does not import.
    """
    version = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    if not has_torch_npu():
        raise ExecutorError(
            f"executor {executor!r} needs torch_npu, which is not installed: "
            f"`pip install torch-npu=={version}.*` on a machine with CANN, or executor='eager'."
        )
    try:
        importlib.import_module("torch_npu")
    except (ImportError, RuntimeError) as error:
        raise ExecutorError(
            f"executor {executor!r} needs torch_npu, which does not import here ({error}); "
            "`ascend-passes doctor` says what is missing."
        ) from error


def npugraph_ex(
    gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options, static: Collection[int]
) -> Runner:
    """Compile with `torch.npu.npugraph_ex.compile_fx`.

    It captures one ACL graph for each combination of sizes, and again when the address of a
    parameter or of a written input changes. On an AOT graph it takes parameters for ordinary
    inputs and copies them at each replay, and inputs that an operator writes whose name does not
    end in `_` as well, so that the write is lost. Both are marked static here.
    """
    require_torch_npu("npugraph_ex")
    engine = importlib.import_module("torch_npu.npu.npugraph_ex")
    with compiling(example_inputs) as fakes:
        for index in {*hidden_writes(gm.graph), *static}:
            torch._dynamo.mark_static_address(fakes[index], guard=False)
        compiled: Runner = engine.compile_fx(gm, fakes, npugraph_ex_options(gm.graph, options))
    return compiled


def npugraph_ex_options(graph: fx.Graph, options: Options) -> dict[str, bool]:
    """What npugraph_ex is told about a graph.

    * `pattern_fusion_pass` off: our rules have decided, under legality tables that it lacks.
    * `remove_noop_ops` off where an operator writes without declaring it: the clone that protects
      the argument looks like a no-op there.
    * `force_eager` unless every size is to be captured: npugraph_ex captures whatever it is
      called with, prefills included. Decode steps alone are captured by `ascend_passes.capture`,
      around what npugraph_ex runs.
    * `frozen_parameter` stays off: with it a parameter that moves would be read at its old address.
    """
    undeclared = any(traits_of(node.target).writes for node in graph.nodes)
    return {
        "pattern_fusion_pass": False,
        "remove_noop_ops": not undeclared,
        "force_eager": not captures_itself("npugraph_ex", options),
        "frozen_parameter": False,
    }


def hidden_writes(graph: fx.Graph) -> Iterator[int]:
    """Positions of the placeholders whose memory a node writes out of npugraph_ex's sight.

    npugraph_ex 2.13 finds a write where an operator's name ends in `_` and its first argument is
    the placeholder itself; caches written through other arguments or views are not found.
    """
    positions = {node: i for i, node in enumerate(graph.find_nodes(op="placeholder"))}
    hidden = {
        facts.base(argument)
        for node in graph.nodes
        for argument in facts.written(node)
        if not (ends_in_underscore(node) and argument in positions and argument is node.args[0])
    }
    yield from sorted(positions[node] for node in hidden if node in positions)


def ends_in_underscore(node: fx.Node) -> bool:
    """Whether the node's operator is in place by its name."""
    return facts.operator_name(node).endswith("_")


def torchair(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Runner:
    """Compile with torchair, to CANN's graph IR.

    Raises:
        ExecutorError: an operator of the graph has no converter to that IR.
    """
    engine = load_torchair()
    missing = sorted(set(without_converter(gm.graph)))
    if missing:
        raise ExecutorError(
            f"torchair has no converter for {', '.join(missing)}; use executor='npugraph_ex', or "
            "switch off the rules that emit them with the option `rules`."
        )
    config = engine.CompilerConfig()
    config.experimental_config.pattern_fusion_pass = False
    with compiling(example_inputs) as fakes:
        compiled: Runner = engine.get_compiler(config)(gm, fakes)
    return compiled


def load_torchair() -> Any:
    """The module `torchair`, with all its converters.

    Raises:
        ExecutorError: torch_npu is missing, or torchair does not import.
    """
    require_torch_npu("torchair")
    try:
        engine = importlib.import_module("torchair")
        # Most converters of `npu` operators are registered by a module that loads on first use.
        importlib.import_module("torchair._ge_concrete_graph.ge_converter.custom")
    except ImportError as error:
        raise ExecutorError(
            f"executor 'torchair' does not import here ({error}); use executor='npugraph_ex'."
        ) from error
    return engine


def without_converter(graph: fx.Graph) -> Iterator[str]:
    """Names of the operators that torchair cannot convert, as its own table says."""
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if not has_converter(node.target):
            yield facts.operator_name(node)


def has_converter(target: Any) -> bool:
    """Whether torchair has registered a converter for an operator."""
    return getattr(target, "_ge_converter", None) is not None
