"""What depends on parameters alone is computed once, and again when a parameter changes."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

import ascend_passes
from ascend_passes.compile import variant as compiled_module
from ascend_passes.ir.graph import Context
from ascend_passes.ir.trace import compile_inference, module_state
from ascend_passes.passes.constants.facts import Facts, facts_of
from ascend_passes.passes.constants.fold import FoldedValues, fold_constants, folded_of
from ascend_passes.passes.constants.merge_equal import merge_equal
from ascend_passes.passes.rope.hoist import share_tables

WIDTH = 8


def compiled(model: nn.Module, *inputs: Tensor):
    """(graph module, its flat inputs, context) of a call of `model`."""
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
    return gm, flat, Context(constants=constants, folds=True)


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
    report = fold_constants(gm.graph, context)
    gm.recompile()
    folded = folded_of(gm.graph)
    assert report.fired == {"fold_constants": 2}
    left = {str(n.target) for n in gm.graph.nodes if n.op == "call_function"}
    assert left == {"aten.mul.Tensor", "aten.t.default", "aten.mm.default", "aten.add.Tensor"}
    values = FoldedValues(folded)
    assert torch.equal(gm(*flat, *values(flat))[0], model(x))
    assert not any(name.startswith("folded") for name in context.constants)


def test_the_prologue_runs_again_only_after_a_change_and_into_the_same_memory():
    model, x = Scaled(), torch.randn(3, WIDTH)
    gm, flat, context = compiled(model, x)
    fold_constants(gm.graph, context)
    gm.recompile()
    folded = folded_of(gm.graph)
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
    values.forget()
    values(flat)
    assert len(calls) == 4


class Counting(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * (self.count * 2), self.scale + 1, x + torch.rand(WIDTH)


def test_written_buffers_results_and_random_numbers_stay():
    gm, _, context = compiled(Counting(), torch.randn(3, WIDTH))
    assert not fold_constants(gm.graph, context).fired
    assert folded_of(gm.graph) is None


class Large(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t().contiguous() + self.weight[0]


def test_a_large_weight_is_not_copied_and_views_stay():
    gm, _, context = compiled(Large(1024), torch.randn(2, 1024))
    (miss,) = fold_constants(gm.graph, context).misses
    assert "1 MiB" in miss.reason
    assert folded_of(gm.graph) is None


def test_nothing_is_folded_where_nobody_can_hold_the_values():
    gm, _, context = compiled(Scaled(), torch.randn(3, WIDTH))
    before = str(gm.graph)
    assert not fold_constants(gm.graph, dataclasses.replace(context, folds=False)).fired
    assert str(gm.graph) == before


class Twins(nn.Module):
    def __init__(self, other: Tensor) -> None:
        super().__init__()
        self.register_buffer("one", torch.zeros(WIDTH))
        self.register_buffer("other", other)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one + x * self.other


def merged(gm, context):
    return merge_equal(gm.graph, context).fired.get("merge_equal", 0)


def test_equal_parameters_share_an_input_until_one_changes():
    model, x = Twins(torch.zeros(WIDTH)), torch.randn(3, WIDTH)
    gm, flat, context = compiled(model, x)
    assert merged(gm, context) == 1
    (fact,) = facts_of(copy.deepcopy(gm).graph)
    positions = {n.target: i for i, n in enumerate(gm.graph.find_nodes(op="placeholder"))}
    facts = Facts([fact], positions)
    assert facts.hold(flat) and facts.hold(flat)
    assert torch.equal(gm(*flat)[0], model(x))
    assert len([n for n in gm.graph.find_nodes(op="placeholder") if n.users]) == 2
    model.other.data += 1
    assert not facts.hold(flat)
    model.one.data += 1
    assert facts.hold(flat) and facts.hold(flat)


def test_zeros_of_different_sign_and_large_tensors_are_not_merged():
    gm, _, context = compiled(Twins(-torch.zeros(WIDTH)), torch.randn(3, WIDTH))
    assert merged(gm, context) == 0
    model = Twins(torch.zeros(70000))
    model.one = torch.zeros(70000)
    gm, _, context = compiled(model, torch.randn(1, 70000))
    assert merged(gm, context) == 0


class Apart(Twins):
    """Equal parameters, and a third that stands behind a cast; only some meet one value."""

    def __init__(self) -> None:
        super().__init__(torch.ones(WIDTH))
        self.one = torch.ones(WIDTH)
        self.register_buffer("third", torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = (x * self.one).sin() * self.other
        return y + (y * (self.third.view(1, -1) + 1)) + (y * (self.other.view(1, -1) + 1))


def test_only_parameters_that_keep_equal_computations_apart_are_merged():
    model, x = Apart(), torch.randn(3, WIDTH)
    gm, flat, context = compiled(model, x)
    assert merged(gm, context) == 1
    (fact,) = facts_of(gm.graph)
    by_name = {
        n.target: t for n, t in zip(gm.graph.find_nodes(op="placeholder"), flat, strict=True)
    }
    assert {id(by_name[name]) for name in fact.names} == {id(model.other), id(model.third)}
    assert torch.equal(gm(*flat)[0], model(x))


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.arange(70000.0))
        self.register_buffer("other", torch.arange(70000.0))

    def forward(self, rows: Tensor) -> Tensor:
        return self.one[rows] + self.other[rows]


def test_large_tables_are_shared_without_a_copy():
    model, rows = Tables(), torch.tensor([1, 69999])
    gm, flat, context = compiled(model, rows)
    assert share_tables(gm.graph, context).fired == {"share_tables": 1}
    positions = {n.target: i for i, n in enumerate(gm.graph.find_nodes(op="placeholder"))}
    facts = Facts(facts_of(gm.graph), positions)
    assert facts.hold(flat) and facts.hold(flat)
    assert not facts.snapshot.checks
    model.other.data[69999] = 3
    assert not facts.hold(flat)


def several(name):
    """A model that uses, and returns, parts of an operator with several results."""

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return SEVERAL[name](self.weight, x)

    return Several()


SEVERAL = {
    "max": lambda w, x: ((found := w.max(0)).values * x, found.indices, found.values * 2 + x),
    "max returned": lambda w, x: ((v := w.max(0).values) * x, v),
    "topk": lambda w, x: (w.topk(3)[0].sum() * x, w.topk(3)[1]),
    "sort": lambda w, x: (w.sort()[0] @ x.mT, w.sort()[1]),
    "qr": lambda w, x: ((found := torch.linalg.qr(w))[0] @ x.mT, found[1]),
    "var_mean": lambda w, x: ((found := torch.var_mean(w, 0))[0] * x, found[1]),
    "weight_norm": lambda w, x: (torch._weight_norm(w, w[:1], 1) @ x.mT,),
    "unused part": lambda w, x: (w.min(0)[0] + x,),
    "expanded": lambda w, x: ((w.sum(0) * 2).expand(3, WIDTH) * x,),
    "chunks": lambda w, x: ((w * 2).chunk(2)[0][0] * x, (w * 2).chunk(2)[1]),
}


@pytest.mark.parametrize("name", SEVERAL)
@torch.no_grad()
def test_operators_with_several_results_fold_and_follow(name):
    torch._dynamo.reset()
    ascend_passes.reset()
    model, x = several(name), torch.randn(3, WIDTH)
    step = torch.compile(model, backend="ascend_dense")
    for _ in range(3):
        for got, wanted in zip(step(x), model(x), strict=True):
            assert torch.equal(got, wanted)
            got.zero_()  # what is returned is the caller's
        model.weight.data.mul_(1.5)
    (report,) = ascend_passes.reports()
    assert not report.errors
    assert report.fired.get("fold_constants", 0) or name in ("max returned", "chunks")


class OfALargeWeight(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.abs().amax(0)


def test_small_values_of_large_weights_are_computed_in_the_step():
    """To compare the weight at each call would cost as much."""
    gm, _, context = compiled(OfALargeWeight(1024), torch.randn(2, 1024))
    assert not fold_constants(gm.graph, context).fired


@pytest.mark.parametrize("name", ["execute", "wrap"])
@torch.no_grad()
def test_a_step_beside_the_stages_that_raises_is_left_out_and_reported(name, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(compiled_module, name, broken)
    for strict in (False, True):
        torch._dynamo.reset()
        ascend_passes.reset()
        model, x = Scaled(), torch.randn(3, WIDTH)
        step = torch.compile(model, backend="ascend_dense", options={"strict": strict})
        if strict:
            with pytest.raises(Exception, match="broken on purpose"):
                step(x)
            continue
        assert torch.equal(step(x), model(x))
        (report,) = ascend_passes.reports()
        assert "failed and was left out: RuntimeError: broken on purpose" in report.errors[0]


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
