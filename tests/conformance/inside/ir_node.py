"""One operator alone through the executor `torchair`: the node of CANN's graph IR it becomes."""

from __future__ import annotations

import importlib

from ascend_passes.executors.execute import execute, has_converter, load_torchair
from ascend_passes.npu.operator import Operator
from ascend_passes.options.value import Options
from tests.conformance.inside import inputs, single, wheel

BESIDE = {"Data", "NetOutput", "Const", "Unsqueeze", "TensorMove", "Cast", "Fill"}
"""Nodes of a graph's ends, and those that a converter puts around an operator's own; a cast and a
fill make what stands for a list that is not given."""


def without_cann() -> None:
    """Let torchair make IR here, where no CANN compiles it or says which nodes it knows."""
    load_torchair()
    folder = "torchair._ge_concrete_graph"
    converter = importlib.import_module(f"{folder}.fx2ge_converter")
    converter.initialize_graph_engine = lambda *_: None
    compatibility = importlib.import_module(f"{folder}.compat_ir")
    compatibility.is_cann_compat = lambda *_, **__: ""


def node_of(operator: Operator, call: inputs.Call) -> str:
    """The kind of the operator's IR node.

    Raises:
        LookupError: the operator has no converter, or became other than one node.
    """
    if not has_converter(wheel.overload(operator)):
        raise LookupError(f"{operator.name} has no converter")
    gm, fakes = single.graph_of(operator, call)
    runner = execute(gm, fakes, Options(executor="torchair"), "npu")
    kinds = [node.type for node in runner.runner.graph.op if node.type not in BESIDE]
    if len(kinds) != 1:
        raise LookupError(f"{operator.name} became {kinds}")
    return kinds[0]
