"""The normal form: what becomes equal, what must stay, and random graphs."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from torch import fx

from ascend_passes.engine import forms
from ascend_passes.engine.forms import END
from ascend_passes.engine.normalize import normalize
from ascend_passes.ir.arguments import arguments
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options
from ascend_passes.passes.deduplicate import deduplicate

from .graphs import raw, recognized_and_fused, targets, traced

aten = torch.ops.aten
prims = torch.ops.prims


def normal(function, *inputs):
    """The normal graph, whose results must equal those of the traced one."""
    gm = raw(function, inputs)
    original = fx.GraphModule(gm, copied(gm.graph))
    normalize(gm.graph)
    gm.graph.lint()
    gm.recompile()
    expected, found = original(*inputs), gm(*inputs)
    for one, other in zip(as_tuple(expected), as_tuple(found), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
    return gm


def as_tuple(results):
    return results if isinstance(results, (tuple, list)) else (results,)


def spelled(gm):
    """(operator, arguments) of each call, inputs by position."""
    order = {node: index for index, node in enumerate(gm.graph.nodes)}
    return [
        (
            str(node.target),
            tuple(order.get(a, a) if isinstance(a, fx.Node) else a for a in arguments(node)),
        )
        for node in gm.graph.nodes
        if node.op == "call_function"
    ]


X = torch.randn(4, 6)
FORMS = {
    "no-op view": (lambda x: x.view(4, 6).relu(), lambda x: x.relu()),
    "no-op expand": (lambda x: x.expand(4, 6).relu(), lambda x: x.relu()),
    "no-op slice": (lambda x: x[:, 0:6].relu(), lambda x: x.relu()),
    "no-op cast": (lambda x: aten._to_copy(x, dtype=torch.float32).relu(), lambda x: x.relu()),
    "clone": (lambda x: x.clone().relu(), lambda x: x.relu()),
    "alias": (lambda x: aten.alias(x).relu(), lambda x: x.relu()),
    "detach": (lambda x: x.detach().relu(), lambda x: x.relu()),
    "chain of views": (lambda x: x.view(24).view(2, 12).relu(), lambda x: x.view(2, 12).relu()),
    "views that cancel": (lambda x: x.view(24).view(4, 6).relu(), lambda x: x.relu()),
    "view with -1": (lambda x: x.view(-1, 12).relu(), lambda x: x.view(2, 12).relu()),
    "unsafe view": (lambda x: aten._unsafe_view(x, [2, 12]).relu(), lambda x: x.view(2, 12).relu()),
    "reshape": (lambda x: aten.reshape(x, [2, 12]).relu(), lambda x: x.view(2, 12).relu()),
    "t": (lambda x: x.t().relu(), lambda x: x.permute(1, 0).relu()),
    "transpose": (lambda x: x.transpose(-1, -2).relu(), lambda x: x.permute(1, 0).relu()),
    "negative dims": (lambda x: x.permute(-1, 0).relu(), lambda x: x.permute(1, 0).relu()),
    "permutations that cancel": (lambda x: x.t().t().relu(), lambda x: x.relu()),
    "permutation of permutation": (
        lambda x: x.view(2, 2, 6).permute(1, 2, 0).permute(1, 2, 0).relu(),
        lambda x: x.view(2, 2, 6).permute(2, 0, 1).relu(),
    ),
    "negative slice": (lambda x: x[:, -2:].relu(), lambda x: x[:, 4:6].relu()),
    "negative slice dim": (lambda x: aten.slice(x, -1, 1, 3).relu(), lambda x: x[:, 1:3].relu()),
    "open slice": (lambda x: x[:, 2:].relu(), lambda x: x[:, 2:100].relu()),
    "chunk": (lambda x: x.chunk(2, -1)[1].relu(), lambda x: x[:, 3:].relu()),
    "split": (lambda x: x.split([2, 4], 1)[1].relu(), lambda x: x[:, 2:].relu()),
    "uneven split": (lambda x: x.split(4, 1)[1].relu(), lambda x: x[:, 4:].relu()),
    "square": (lambda x: aten.square(x), lambda x: x.pow(2)),
    "product with itself": (lambda x: x * x, lambda x: x.pow(2)),
    "scalar add": (lambda x: aten.add.Scalar(x, 2), lambda x: aten.add.Tensor(x, 2)),
    "scalar sub": (lambda x: aten.sub.Scalar(x, 2), lambda x: aten.sub.Tensor(x, 2)),
    "scalar mul": (lambda x: aten.mul.Scalar(x, 2), lambda x: aten.mul.Tensor(x, 2)),
    "scalar div": (lambda x: aten.div.Scalar(x, 2), lambda x: aten.div.Tensor(x, 2)),
    "cast by prims": (
        lambda x: prims.convert_element_type(x, torch.float64).relu(),
        lambda x: x.double().relu(),
    ),
    "clamp by constants": (
        lambda x: x.clamp(torch.tensor(-1.0), torch.tensor(0.5)),
        lambda x: x.clamp(-1.0, 0.5),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_one_computation_become_equal(name):
    one, other = FORMS[name]
    assert spelled(normal(one, X)) == spelled(normal(other, X))


DIFFERENT = {
    "another end": (lambda x: x[:, :5], lambda x: x[:, :4]),
    "another step": (lambda x: x[:, ::2], lambda x: x[:, ::3]),
    "a product of two": (lambda x: x * x.relu(), lambda x: x.pow(2)),
    "a scaled sum": (lambda x: aten.add.Scalar(x, 2, alpha=3), lambda x: aten.add.Scalar(x, 2)),
    "a strided view": (lambda x: x.t().reshape(24), lambda x: x.view(24)),
    "a contiguous copy": (lambda x: x.t().contiguous(), lambda x: x.t()),
    "a rounding cast": (lambda x: x.half().float(), lambda x: x.relu()),
    "a keyword": (lambda x: x.sum(0, keepdim=True), lambda x: x.sum(0)),
    "a clamp that rounds": (
        lambda x: x.clamp(max=torch.tensor(0.1, dtype=torch.float64).float()),
        lambda x: x.clamp(max=0.2),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_computations_stay_different(name):
    one, other = DIFFERENT[name]
    assert spelled(normal(one, X)) != spelled(normal(other, X))


def test_normalizing_twice_changes_nothing():
    for one, _ in FORMS.values():
        gm = normal(one, X)
        before = spelled(gm)
        normalize(gm.graph)
        assert spelled(gm) == before


def test_an_open_end_is_one_number():
    gm = normal(lambda x: x[:, 2:], X)
    (node,) = [node for node in gm.graph.nodes if node.op == "call_function"]
    assert node.args[3] == END


def test_a_copy_of_an_input_that_is_handed_back_stays():
    gm = normal(lambda x: (x.clone(), x.relu()), X)
    results = gm(X)
    results[0].zero_()
    assert X.abs().sum() > 0
    gm = normal(lambda x: x.clone().view(24), X)
    assert gm(X).data_ptr() != X.data_ptr()


def test_a_copy_whose_source_is_written_later_stays():
    gm = raw(lambda x: (x.clone().relu(), x + 1), [X])
    source = gm.graph.find_nodes(op="placeholder")[0]
    clone = next(node for node in gm.graph.nodes if node.target is aten.clone.default)
    with gm.graph.inserting_after(clone):
        write = gm.graph.call_function(aten.add_.Tensor, (source, 1))
    write.meta["val"] = source.meta["val"]
    gm.recompile()
    expected = copy.deepcopy(gm)(X.clone())
    normalize(gm.graph)
    gm.recompile()
    assert "aten.clone.default" in targets(gm)
    for one, other in zip(gm(X.clone()), expected, strict=True):
        assert torch.equal(one, other)


def test_a_copy_that_is_written_itself_stays():
    gm = raw(lambda x: x.clone(), [X])
    clone = next(node for node in gm.graph.nodes if node.target is aten.clone.default)
    with gm.graph.inserting_after(clone):
        write = gm.graph.call_function(aten.zero_.default, (clone,))
    write.meta["val"] = clone.meta["val"]
    gm.graph.output_node().args = ((write,),)
    normalize(gm.graph)
    gm.recompile()
    assert "aten.clone.default" in targets(gm)
    gm(X)
    assert X.abs().sum() > 0


def test_deduplicate_merges_what_is_equal_and_keeps_what_is_not():
    def model(x):
        noise = torch.rand_like(x) - torch.rand_like(x)
        return x.relu() + x.relu() + x.mul(1.0) + x.mul(1) + noise

    gm = raw(model, [X])
    normalize(gm.graph)
    deduplicate(gm.graph, Context())
    found = targets(gm)
    assert found.count("aten.relu.default") == 1
    assert found.count("aten.mul.Tensor") == 2
    assert found.count("aten.rand_like.default") == 2


def test_deduplicate_keeps_two_reads_around_a_write():
    gm = raw(lambda x: (x + 1, x + 1), [X])
    source = gm.graph.find_nodes(op="placeholder")[0]
    second = [node for node in gm.graph.nodes if node.target is aten.add.Tensor][1]
    with gm.graph.inserting_before(second):
        write = gm.graph.call_function(aten.mul_.Tensor, (source, 2))
    write.meta["val"] = source.meta["val"]
    deduplicate(gm.graph, Context())
    assert targets(gm).count("aten.add.Tensor") == 2


def test_a_form_that_raises_leaves_its_node_alone(monkeypatch):
    def broken(node):
        raise IndexError("broken on purpose")

    monkeypatch.setattr(
        "ascend_passes.engine.normalize.FORMS", {**forms.FORMS, aten.permute.default: broken}
    )
    gm = raw(lambda x: x.permute(1, 0).clone() * x.clone().t(), [X])
    with pytest.raises(IndexError):
        normalize(copy.deepcopy(gm).graph)
    report = normalize(gm.graph, strict=False)
    assert report.errors[0] == "normalize left permute as it was: IndexError: broken on purpose"
    gm.recompile()
    assert "aten.clone.default" not in targets(gm)
    assert torch.equal(gm(X), X.t() * X.t())


def test_equal_values_that_are_returned_stay_apart_and_what_follows_is_merged():
    gm = raw(lambda x: ((y := x.exp()), (z := x.exp()), y.relu() + z.relu()), [X])
    deduplicate(gm.graph, Context())
    found = targets(gm)
    assert (found.count("aten.exp.default"), found.count("aten.relu.default")) == (2, 1)
    gm.recompile()
    one, other, _ = gm(X)
    assert one.data_ptr() != other.data_ptr()


ROWS, COLUMNS = 4, 8
UNARY = ("square", "self product", "rms", "norm", "silu", "clone", "cast", "round trip", "neg")
SHAPED = ("view", "transpose twice", "permute", "slice", "split", "chunk", "expand")
BINARY = ("add", "add scaled", "sub", "mul", "cat", "swiglu", "add norm", "rotate")
steps = st.lists(
    st.tuples(
        st.sampled_from((*UNARY, *SHAPED, *BINARY)),
        st.integers(0, 7),
        st.integers(0, 7),
        st.sampled_from((0, 1, 2, -1, 0.5, 1e-6)),
    ),
    min_size=1,
    max_size=10,
)


def normalized(x, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def apply(name, x, y, gain, number):
    """One step on two matrices of one shape; the result has the same shape."""
    rows, half = x.shape[0], COLUMNS // 2
    eps = abs(number) + 1e-3
    return {
        "square": lambda: x.square() * 0.1,
        "self product": lambda: (x * x).tanh(),
        "rms": lambda: torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * y,
        "norm": lambda: gain * normalized(x, eps),
        "silu": lambda: torch.nn.functional.silu(x),
        "clone": lambda: x.clone(),
        "cast": lambda: x.to(x.dtype),
        "round trip": lambda: x.double().to(x.dtype),
        "neg": lambda: -x,
        "view": lambda: x.view(-1).view(rows, COLUMNS),
        "transpose twice": lambda: x.t().relu().transpose(-1, -2),
        "permute": lambda: x.view(rows, 2, half).permute(1, 0, 2).reshape(rows, COLUMNS),
        "slice": lambda: torch.cat([x[:, half:], x[:, :half]], -1),
        "split": lambda: torch.cat(list(x.split([3, 5], 1))[::-1], 1),
        "chunk": lambda: torch.cat([c * number for c in x.chunk(2, -1)], -1),
        "expand": lambda: x.expand(rows, COLUMNS) + gain.expand(rows, COLUMNS),
        "add": lambda: x + y,
        "add scaled": lambda: torch.add(x, y, alpha=3 if number == 2 else 1),
        "sub": lambda: x - y * number,
        "mul": lambda: x * y.tanh(),
        "cat": lambda: torch.cat([x, y], 0)[1 : rows + 1],
        "swiglu": lambda: torch.cat(
            [
                torch.nn.functional.silu(x[:, :half]) * x[:, half:],
                torch.nn.functional.silu(y[:, half:]) * y[:, :half],
            ],
            -1,
        ),
        "add norm": lambda: normalized(x + y, eps) * gain,
        "rotate": lambda: x * y.cos() + torch.cat((-x[:, half:], x[:, :half]), -1) * y.sin(),
    }[name]()


def random_model(program, kept):
    """A function of two matrices and a gain that runs the steps and returns some of the values."""

    def model(x, y, gain):
        values = [x, y]
        for name, one, other, number in program:
            found = apply(
                name, values[one % len(values)], values[other % len(values)], gain, number
            )
            values.append(found.contiguous() if found.stride() != x.stride() else found)
        return (*(values[index % len(values)] + 0 for index in kept), values[-1] * 1)

    return model


programs = given(
    program=steps,
    kept=st.lists(st.integers(0, 12), max_size=3),
    seed=st.integers(0, 2**31),
    dynamic=st.booleans(),
)
frugal = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def matrices(seed, dtype, rows=ROWS):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=dtype)
        for shape in ((rows, COLUMNS), (rows, COLUMNS), (COLUMNS,))
    ]


def row_counts(dynamic):
    """The numbers of rows to run a graph with: others than it was traced with, if it is dynamic."""
    return (ROWS, ROWS + 3, 2) if dynamic else (ROWS,)


@frugal
@programs
def test_normalizing_and_deduplicating_random_graphs_is_exact(program, kept, seed, dynamic):
    model = random_model(program, kept)
    gm = raw(model, matrices(seed, torch.float64), dynamic)
    original = fx.GraphModule(gm, copied(gm.graph))
    normalize(gm.graph)
    deduplicate(gm.graph, Context())
    normalize(gm.graph)
    gm.graph.lint()
    gm.recompile()
    note(gm.code)
    for rows in row_counts(dynamic):
        inputs = matrices(seed, torch.float64, rows)
        for one, other in zip(original(*inputs), gm(*inputs), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def firing(name, dynamic):
    """A program of one step that a rule knows, so that no run of the test below is empty."""
    return example(program=[(name, 0, 1, 0.5)], kept=[], seed=0, dynamic=dynamic)


def test_rewriting_random_graphs_keeps_their_results():
    context = Context(Options(rules="+*,-quantize_static,-quantize_dynamic"))
    fired = {False: Counter(), True: Counter()}

    @frugal
    @firing("add norm", True)
    @firing("add norm", False)
    @firing("swiglu", True)
    @firing("swiglu", False)
    @programs
    def check(program, kept, seed, dynamic):
        model = random_model(program, kept)
        gm = traced(model, matrices(seed, torch.float32), dynamic)
        deduplicate(gm.graph, context)
        report = recognized_and_fused(gm.graph, context)
        fired[dynamic].update(report.fired)
        gm.graph.lint()
        gm.recompile()
        note(f"{report}\n{gm.code}")
        for rows in row_counts(dynamic):
            inputs = matrices(seed, torch.float32, rows)
            assert_near(gm(*inputs), model, inputs)

    check()
    for dynamic, counts in fired.items():
        assert {"rms_norm", "add_rms_norm"} <= set(counts), (dynamic, counts)
        assert {name.split("_")[0] for name in counts} >= {"swiglu"}, (dynamic, counts)


def assert_near(results, model, inputs):
    """Not much further from float64 than the model itself."""
    exact = model(*(tensor.double() for tensor in inputs))
    for one, wide, plain in zip(results, exact, model(*inputs), strict=True):
        error = (one.double() - wide).abs().max()
        allowed = 8 * (plain.double() - wide).abs().max() + 1e-5 * (1 + wide.abs().max())
        assert error <= allowed or not wide.isfinite().all()
