"""What is saved for the backward graph lies where no write of the caller's goes unseen.

Autograd counts the writes of a tensor and refuses to differentiate with what was written after it
was saved. A result that is a view of something in the graph gets a count of its own: AOTAutograd
hides from autograd what it is a view of. What is saved in its memory would change unseen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import same_size, same_sizes, value
from ascend_passes.ir.sharing import memory, results
from ascend_passes.ir.trace import fake_mode_of, faking

aten = torch.ops.aten


def keep_saved_apart(graph: fx.Graph) -> None:
    """Save a copy of what lies in the memory of a result whose writes autograd cannot see.

    Args:
        graph: a forward graph while AOTAutograd compiles it, changed in place.
    """
    context: Any = torch._guards.TracingContext.try_get()
    metadata = context.fw_metadata if context is not None else None
    if metadata is None or not metadata.unsafe_view_out_indices:
        return
    returned, count = results(graph), metadata.num_forward_returns
    writable: set[fx.Node] = set()
    for index in metadata.unsafe_view_out_indices:
        writable |= memory(returned[metadata.num_mutated_inp_runtime_indices + index])
    copies = {node: copy_for_backward(node) for node in returned[count:] if node in writable}
    saved = [copies.get(node, node) for node in returned[count:]]
    graph.output_node().args = ((*returned[:count], *saved),)


def copy_for_backward(node: fx.Node) -> fx.Node:
    """A copy of a tensor with the same strides, at the same place of a memory of its own."""
    fake = value(node)
    with faking(fake_mode_of([fake])):
        plain = aten.clone.default(fake)
        dense = same_sizes(fake.stride(), plain.stride()) and same_size(fake.storage_offset(), 0)
        whole = aten.copy.default(fake, fake)  # which copies all of the memory
    with Editor(node.graph, "keep_saved_apart").at(node, node.graph.output_node()) as edit:
        if dense:
            return edit.known(plain, aten.clone.default, node)
        return edit.known(whole, aten.copy.default, node, node)
