"""One operator alone through the executor `torchair`: the node of CANN's graph IR it becomes."""

from __future__ import annotations

import importlib
import re

from ascend_passes.execute import execute, has_converter, load_torchair
from ascend_passes.npu.operator import Operator
from ascend_passes.options import Options
from tests.conformance.inside import inputs, single, wheel

BESIDE = {"Data", "NetOutput", "Unsqueeze"}
"""Nodes of a graph's ends, and the shape that a converter gives an argument."""
UNDECLARED = re.compile(r"OperatorFactory op (\w+) , GetAllIrAttrNamesAndTypes failed")
"""What torchair says of a node whose declaration comes with an installed CANN alone."""


def without_engine() -> None:
    """Let torchair make IR here: the engine that would compile it is not in the stand-in."""
    load_torchair()
    converter = importlib.import_module("torchair._ge_concrete_graph.fx2ge_converter")
    converter.initialize_graph_engine = lambda *_: None


def node_of(operator: Operator, call: inputs.Call) -> tuple[str, bool]:
    """(kind of the operator's IR node, whether the IR could be made without CANN).

    Where CANN alone declares the node, its converter ran until it asked for that declaration.

    Raises:
        LookupError: the operator has no converter, or became other than one node.
    """
    if not has_converter(wheel.overload(operator)):
        raise LookupError(f"{operator.name} has no converter")
    gm, fakes = single.graph_of(operator, call)
    try:
        runner = execute(gm, fakes, Options(executor="torchair"), "npu")
    except AssertionError as error:
        asked = UNDECLARED.search(str(error))
        if asked is None:
            raise
        return asked[1], False
    kinds = [node.type for node in runner.runner.graph.op if node.type not in BESIDE]
    if len(kinds) != 1:
        raise LookupError(f"{operator.name} became {kinds}")
    return kinds[0], True
