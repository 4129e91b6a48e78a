"""What depends on parameters alone is computed once, and again when a parameter changes."""

import copy

import torch
from torch import Tensor, nn

from ascend_passes.graph import Context
from ascend_passes.passes.constants import (
    FoldedValues,
    facts_hold,
    facts_of,
    fold_constants,
    merge_equal,
)
from ascend_passes.trace import compile_inference, module_state

WIDTH = 8


def compiled(model: nn.Module, *inputs: Tensor, layouts: bool = False):
    """(graph module, its flat inputs, folded) of a call of `model`."""
    made = []

    def compiler(gm, _):
        def run(*flat):
            made[:] = [gm, list(flat)]
            return copy.deepcopy(gm)(*flat)

        return run

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=lambda g, i: compile_inference(g, i, compiler))(*inputs)
    gm, flat = made
    known = {id(t) for t in (*model.parameters(), *model.buffers())}
    nodes = gm.graph.find_nodes(op="placeholder")
    constants = {n.target: t for n, t in zip(nodes, flat, strict=True) if id(t) in known}
    assert constants
    return gm, flat, Context(constants=constants)


class Scaled(nn.Module):
    def __init__(self, size: int = WIDTH) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size))
        self.scale = nn.Parameter(torch.rand(1) + 1)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        reciprocal = (1 / self.scale).expand(x.shape[-1]).contiguous()
        return (x * reciprocal) @ self.weight.t() + torch.zeros(x.shape[-1])


def test_parameter_work_leaves_the_step():
    model, x = Scaled(), torch.randn(3, WIDTH)
    gm, flat, context = compiled(model, x)
    folded = fold_constants(gm, context)
    assert folded.report.fired == {"fold_constants": 2}
    left = {str(n.target) for n in gm.graph.nodes if n.op == "call_function"}
    assert left == {"aten.mul.Tensor", "aten.t.default", "aten.mm.default", "aten.add.Tensor"}
    values = FoldedValues(folded)
    assert torch.equal(gm(*flat, *values(flat))[0], model(x))
    assert not any(name.startswith("folded") for name in context.constants)


def test_the_prologue_runs_again_only_after_a_change_and_into_the_same_memory():
    model, x = Scaled(), torch.randn(3, WIDTH)
    gm, flat, context = compiled(model, x)
    folded = fold_constants(gm, context)
    calls = []
    run = folded.prologue.forward
    folded.prologue.forward = lambda *a: calls.append(1) or run(*a)
    values = FoldedValues(folded)
    addresses = [t.data_ptr() for t in values(flat)]
    values(flat)
    assert len(calls) == 1
    with torch.no_grad():
        model.scale.mul_(3)
    assert torch.equal(gm(*flat, *values(flat))[0], model(x))
    assert len(calls) == 2
    assert [t.data_ptr() for t in values(flat)] == addresses
    model.scale.data = torch.rand(1) + 5
    assert torch.equal(gm(*flat, *values(flat))[0], model(x))
    values.reset()
    values(flat)
    assert len(calls) == 4


class Counting(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * (self.count * 2), self.scale + 1, x + torch.rand(WIDTH)


def test_written_buffers_results_and_random_numbers_stay():
    gm, _, context = compiled(Counting(), torch.randn(3, WIDTH))
    assert fold_constants(gm, context) is None


class Large(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t().contiguous() + self.weight[0]


def test_a_weight_is_copied_only_where_asked_and_views_stay():
    model, x = Large(1024), torch.randn(2, 1024)
    gm, _, context = compiled(model, x)
    assert fold_constants(gm, context) is None
    gm, flat, context = compiled(model, x)
    folded = fold_constants(gm, context, layouts=True)
    assert len(folded.outputs) == 1
    torch.testing.assert_close(gm(*flat, *FoldedValues(folded)(flat))[0], model(x))


class Twins(nn.Module):
    def __init__(self, other: Tensor) -> None:
        super().__init__()
        self.register_buffer("one", torch.zeros(WIDTH))
        self.register_buffer("other", other)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one + x * self.other


def test_equal_parameters_share_an_input_until_one_changes():
    model, x = Twins(torch.zeros(WIDTH)), torch.randn(3, WIDTH)
    gm, flat, context = compiled(model, x)
    (pair,) = merge_equal(gm.graph, context).items()
    (fact,) = facts_of(copy.deepcopy(gm).graph)
    assert set(fact.names) == set(pair)
    assert facts_hold([fact], context.constants)
    assert torch.equal(gm(*flat)[0], model(x))
    assert len([n for n in gm.graph.find_nodes(op="placeholder") if n.users]) == 2
    model.other.add_(1)
    assert not facts_hold([fact], context.constants)


def test_zeros_of_different_sign_and_large_tensors_are_not_merged():
    gm, _, context = compiled(Twins(-torch.zeros(WIDTH)), torch.randn(3, WIDTH))
    assert merge_equal(gm.graph, context) == {}
    model = Twins(torch.zeros(70000))
    model.one = torch.zeros(70000)
    gm, _, context = compiled(model, torch.randn(1, 70000))
    assert merge_equal(gm.graph, context) == {}
    assert len(merge_equal(gm.graph, context, context.constants)) == 1


class Cached(Scaled):
    def forward(self, x: Tensor, cache: Tensor) -> Tensor:
        return x * (1 / self.scale) + (self.count + 1) + cache * 2


def test_parameters_and_buffers_are_module_state_and_a_cache_is_not():
    cache = torch.ones(WIDTH)
    torch._dynamo.mark_static_address(cache)
    found = []

    def backend(gm, inputs):
        found[:] = [inputs[i] for i in module_state(gm, inputs, range(len(inputs)))]
        return gm.forward

    model = Cached()
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=backend)(torch.randn(3, WIDTH), cache)
    assert {id(t) for t in found} == {id(model.scale), id(model.count)}
