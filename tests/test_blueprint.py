"""A blueprint gives the graph back, whatever became of its nodes meanwhile."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

from ascend_passes.ir.blueprint import Blueprint, copied_module


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x, y):
        parts = torch.split(torch.cat([x @ self.weight, y], dim=-1), 4, dim=-1)
        return parts[0] * 2, torch.clamp(parts[1], min=0.0), x


def traced():
    gm = fx.symbolic_trace(Model())
    for number, node in enumerate(gm.graph.nodes):
        node.meta["number"] = number
    return gm


def numbers(graph):
    return [(node.name, node.meta.get("number")) for node in graph.nodes]


def test_it_gives_the_graph_as_it_was():
    gm, inputs = traced(), (torch.randn(2, 4), torch.randn(2, 4))
    wanted, code, named = gm(*inputs), gm.code, numbers(gm.graph)
    blueprint = Blueprint.of(gm.graph)
    for node in reversed(list(gm.graph.nodes)):
        node.meta["number"] = -1
        if node.op == "output":
            node.args = ((),)
        elif node.op != "placeholder":
            gm.graph.erase_node(node)
    for _ in range(2):  # a second stage may fail as well
        graph, new = blueprint.made()
        graph.lint()
        again = fx.GraphModule(gm, graph)
        assert again.code == code and numbers(graph) == named
        assert all(map(torch.equal, again(*inputs), wanted))
        for node in new.values():
            node.meta.clear()
        graph.output_node().args = ((),)


def test_a_copy_tells_where_each_node_went():
    gm = traced()
    copy, new = copied_module(gm)
    assert copy.weight is gm.weight and list(new) == list(gm.graph.nodes)
    assert list(new.values()) == list(copy.graph.nodes)
    for node in copy.graph.find_nodes(op="call_function", target=operator.mul):
        node.args = (node.args[0], 3)
    copy.recompile()
    x = torch.randn(2, 4)
    assert torch.equal(copy(x, x)[0] * 2, gm(x, x)[0] * 3)
