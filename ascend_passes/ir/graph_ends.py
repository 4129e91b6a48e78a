"""What a Dynamo graph ends with: its results, and why it ended."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor, fx


def graph_break(gm: fx.GraphModule) -> tuple[str, str] | None:
    """(Why Dynamo ended this graph, the model's line) where the model goes on in Python behind it.

    The line is written as in a stack trace; None for a graph that ends with its function.
    """
    reason: Any = getattr(gm, "compile_subgraph_reason", None)
    if reason is None or not reason.graph_break:
        return None
    frames = "".join(traceback.format_list(reason.user_stack))
    return str(reason.reason).strip().splitlines()[0], frames


def example_results(gm: fx.GraphModule) -> list[tuple[Any, torch.dtype | None, Any]]:
    """(shape, dtype, device) of each result of a graph at its example sizes; (value, None, None)
    for others."""
    results: list[tuple[Any, torch.dtype | None, Any]] = []
    returned: Any = gm.graph.output_node().args[0]
    for node in returned:
        fake = node.meta.get("val") if isinstance(node, fx.Node) else node
        if isinstance(fake, Tensor):
            shape = [size if isinstance(size, int) else size.node.hint for size in fake.shape]
            results.append((shape, fake.dtype, fake.device))
        else:
            results.append((fake.node.hint if isinstance(fake, torch.SymInt) else fake, None, None))
    return results
