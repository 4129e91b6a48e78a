"""Gathers of several results of one call, as rows and scales of a quantize, become one collective.

Each collective begins with a latency, which for some hundred tokens is longer than the scales take
on the wire. NCCL sends what is gathered together as one kernel. HCCL takes the same call and sends
one tensor after the other (torch_npu's `allgather_into_tensor_coalesced`), so that nothing is
gained on an NPU; there, and on a CPU, `passes="+join_gathers"` asks for it. Rows and scales in one
buffer would need a kernel to pack and two to unpack, each of which takes longer to launch than the
latency that is saved (`cost/profiles.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import torch
from torch import fx

from ascend_passes.engine.normalize import remove_dead
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import Context, is_call, value
from ascend_passes.options.value import switched_on
from ascend_passes.report.value import Report

NAME = "join_gathers"
GATHER = torch.ops._c10d_functional.all_gather_into_tensor.default
WAIT = torch.ops._c10d_functional.wait_tensor.default
TOGETHER = torch.ops._c10d_functional.all_gather_into_tensor_coalesced.default


def join_gathers(graph: fx.Graph, context: Context) -> Report:
    """Join what can be gathered together, in place."""
    if not are_joined(context):
        return Report()
    found = list(gathers_of_one_call(graph.nodes))
    for gathers in found:
        join(gathers)
    if found:
        remove_dead(graph)
    return Report(fired={NAME: len(found)} if found else {})


def are_joined(context: Context) -> bool:
    """Whether the pass is on."""
    return switched_on(NAME, context.options.passes, context.device == "cuda")


def gathers_of_one_call(nodes: Iterable[fx.Node]) -> Iterator[list[fx.Node]]:
    """The all_gathers of results of one call over the same ranks, where there are several."""
    found: dict[tuple[object, ...], list[fx.Node]] = {}
    for node in nodes:
        if is_call(node, GATHER) and is_call(node.args[0], operator.getitem) and only_wait(node):
            result = node.args[0]
            assert isinstance(result, fx.Node)
            found.setdefault((result.args[0], *node.args[1:]), []).append(node)
    yield from (gathers for gathers in found.values() if len(gathers) > 1)


def only_wait(gather: fx.Node) -> fx.Node | None:
    """What waits for a gather, where nothing else reads it."""
    readers = list(gather.users)
    return readers[0] if len(readers) == 1 and is_call(readers[0], WAIT) else None


def join(gathers: list[fx.Node]) -> None:
    """One collective of bytes where the first one stands: gloo takes one dtype alone."""
    first = gathers[0]
    with Editor(first.graph, NAME).at(first) as edit:
        results = [edit.item(*gather.args[0].args) for gather in gathers]  # type: ignore[union-attr]
        rows = [seen_as(edit, result, torch.int8) for result in results]
        together = edit.call(TOGETHER, rows, *first.args[1:])
        for index, gather in enumerate(gathers):
            whole = edit.call(WAIT, edit.item(together, index))
            waiting = only_wait(gather)
            assert waiting is not None
            edit.replace(waiting, seen_as(edit, whole, value(gather).dtype))


def seen_as(edit: Editor, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    """The bytes of a contiguous value as another dtype."""
    if value(node).dtype == dtype:
        return node
    return edit.call(torch.ops.aten.view.dtype, node, dtype)
