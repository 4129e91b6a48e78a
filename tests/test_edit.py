"""Nodes come into a graph in one way, and bring their value, their place and their author."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import ascend_passes
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import value
from ascend_passes.ir.trace import aot_graph

aten = torch.ops.aten
PACKAGE = Path(ascend_passes.__file__).parent
WHOLE_GRAPHS = {"ir/blueprint.py", "verify/exact.py"}
"""They make a graph anew from another one, node by node."""
MAKES_A_CALL = re.compile(r"\.(call_function|call_method|create_node)\(")


class Two(torch.nn.Module):
    """A sum that another line reads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x + 1
        return total * 2


@pytest.fixture
def graph() -> torch.fx.Graph:
    """Of `Two`, for two rows of three."""
    return aot_graph(Two(), torch.ones(2, 3)).graph


def node_of(graph: torch.fx.Graph, target: object) -> torch.fx.Node:
    """The only call of an operator."""
    (node,) = graph.find_nodes(op="call_function", target=target)
    return node


def test_only_the_editor_adds_calls():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if MAKES_A_CALL.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"ir/edit.py", *WHOLE_GRAPHS}


def test_a_new_call_has_its_value_its_place_and_its_author(graph):
    product = node_of(graph, aten.mul.Tensor)
    with Editor(graph, "a_pass").at(product) as edit:
        new = edit.call(aten.sum.dim_IntList, product.args[0], [1], True)
    assert new.next is product
    assert value(new).shape == (2, 1) and value(new).fake_mode is value(product).fake_mode
    assert new.meta["stack_trace"] == product.meta["stack_trace"]
    assert "total * 2" in new.meta["stack_trace"]
    assert new.meta["ascend_rule"] == "a_pass"


def test_another_spelling_keeps_all_that_was_noted(graph):
    product = node_of(graph, aten.mul.Tensor)
    product.meta["someone"] = "has noted this"
    with Editor(graph).at(product) as edit:
        new = edit.same(aten.mul.Scalar, *product.args)
    assert new.meta == product.meta and new.meta is not product.meta


def test_a_trial_that_is_discarded_leaves_the_graph_as_it_was(graph):
    before = str(graph)
    total = node_of(graph, aten.add.Tensor)
    edit = Editor(graph, "a_pass")
    with edit.at(total, total.next):
        edit.call(aten.neg.default, edit.call(aten.neg.default, total))
    assert str(graph) != before
    edit.discard()
    assert str(graph) == before


def test_a_replacement_may_read_what_it_replaces(graph):
    total, product = node_of(graph, aten.add.Tensor), node_of(graph, aten.mul.Tensor)
    edit = Editor(graph, "a_pass")
    with edit.at(total, total.next):
        new = edit.call(aten.neg.default, total)
    edit.replace(total, new)
    assert product.args[0] is new and new.args[0] is total
    graph.lint()
