"""Layers that compressed-tensors runs itself, told by where their nodes come from.

A checkpoint that transformers' `from_pretrained` loads holds int8 weights until its first call;
then a hook of the library turns them into floats for good, and each layer's forward, which Dynamo
cuts into several graphs, rounds its input and multiplies floats. No rewrite of the cuts can bring
the integers back, so what is told is how to load the model.
"""

from __future__ import annotations

import re

from torch import fx

from ascend_passes.ir.graph import place
from ascend_passes.report.value import Left

LIBRARY_NAME = "compressed_tensors"
LIBRARY = re.compile(LIBRARY_NAME + r"[/\\]quantization[/\\]")
"""In the path of a frame of the library; vLLM's layers of that name lie in another order."""
OURS = re.compile(r"ascend_passes[/\\]models[/\\](quantize|int8_experts)\.py")
"""In the path of a frame that calls the library and keeps the integers."""
REASON = "compressed-tensors' own forward has read the int8 weights back as floats"
FIX = (
    "load the model with ascend_passes.models.load.load_model(folder), or call "
    "ascend_passes.models.quantize.keep_compressed(model) behind from_pretrained, before the "
    "model's first call"
)


def read_back_layers(graph: fx.Graph) -> tuple[Left, ...]:
    """A line for each module of a traced graph, a layer that the library runs.

    Args:
        graph: with the stack traces of Dynamo.
    """
    places = [place(node) for node in graph.nodes if is_the_librarys(node)]
    first = {one.module: one for one in reversed(places)}
    return tuple(Left("quant_matmul", one, REASON, FIX) for one in first.values())


def is_the_librarys(node: fx.Node) -> bool:
    """Whether a node was traced inside a layer's forward as the library has it. Of a layer that
    Dynamo cuts, the frames in front of the cut are not among a node's."""
    frames = node.meta.get("stack_trace") or ""
    if LIBRARY_NAME not in frames:  # far cheaper than an expression, for thousands of nodes
        return False
    return LIBRARY.search(frames) is not None and OURS.search(frames) is None
