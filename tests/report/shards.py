"""The report of two W8A8 layers on four ranks with FlashComm, traced without weights."""

from __future__ import annotations

import functools

from torch import fx

import ascend_passes
from ascend_passes import Report
from ascend_passes.cli.dense_layers import GROUP, Sizes, layers_graph
from ascend_passes.distributed.groups import Group, assuming

RANKS = 4


@functools.cache
def sharded() -> Report:
    """What became of the layers, whatever it costs."""
    options = {"flashcomm": True, "flashcomm_tokens": -1, "passes": "-sequence_parallel.cost"}
    with assuming(Group(GROUP, RANKS, 0)):
        graph = layers_graph(Sizes(), 2, RANKS)
        inputs = [node.meta["val"] for node in graph.find_nodes(op="placeholder")]
        return ascend_passes.optimize(fx.GraphModule({}, graph), inputs, options)
