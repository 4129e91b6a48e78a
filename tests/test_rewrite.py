"""The driver: when it may move operators, when it must not, and how rules act on each other."""

from typing import Annotated

import pytest
import torch
from torch import Tensor, fx

from ascend_passes import Rule, npu, optimize
from ascend_passes.engine.registry import rules
from ascend_passes.engine.rewrite import RewriteLoopError, rewrite
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options
from ascend_passes.passes.deduplicate import deduplicate

from .graphs import reasons, rewritten, rule_named, targets, traced

aten = torch.ops.aten
Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
H = 16


def add_norm(x, residual, gamma, eps=1e-6):
    total = x + residual
    y, _ = npu.npu_rms_norm(total, gamma, eps)
    return y, total


def inputs():
    return [torch.randn(5, H), torch.randn(5, H), torch.randn(H)]


def node_of(gm: fx.GraphModule, target: str) -> fx.Node:
    return next(node for node in gm.graph.nodes if str(node.target) == target)


def insert_write(gm, before, source, amount=2.0):
    """An in-place multiply of `source`, as a custom operator's write looks after tracing."""
    with gm.graph.inserting_before(before):
        node = gm.graph.call_function(aten.mul_.Tensor, (source, amount))
    node.meta["val"] = source.meta["val"]
    return node


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_write_of_an_input_between_matched_nodes_refuses_the_match(position):
    gm = traced(add_norm, inputs())
    source = gm.graph.find_nodes(op="placeholder")[position]
    insert_write(gm, node_of(gm, "npu.npu_rms_norm.default"), source)
    report = rewritten(gm, rule_named("add_rms_norm"), inputs())
    assert not report.fired
    assert "mul_ writes an input of the pattern in its middle" in reasons(report)


def test_a_write_through_a_view_counts():
    gm = traced(lambda x, r, w: (*add_norm(x, r, w), x.view(-1)), inputs())
    view = node_of(gm, "aten.view.default")
    gm.graph.find_nodes(op="placeholder")[-1].append(view)
    insert_write(gm, node_of(gm, "npu.npu_rms_norm.default"), view)
    assert "in its middle" in reasons(rewritten(gm, rule_named("add_rms_norm"), inputs()))


@pytest.mark.parametrize("place", ["before", "behind", "other"])
def test_writes_elsewhere_do_not_matter(place):
    gm = traced(lambda x, r, w: (*add_norm(x, r, w), (w + 1).relu()), inputs())
    first, _, gain = gm.graph.find_nodes(op="placeholder")
    if place == "other":
        other = next(node for node in gm.graph.nodes if node.args[:2] == (gain, 1))
        gain.append(other)
        insert_write(gm, node_of(gm, "npu.npu_rms_norm.default"), other)
    else:
        edge = node_of(gm, "aten.add.Tensor") if place == "before" else gm.graph.output_node()
        insert_write(gm, edge, first)
    assert rewritten(gm, rule_named("add_rms_norm"), inputs()).fired == {"add_rms_norm": 1}


def test_a_stream_boundary_between_matched_nodes_refuses_the_match():
    library = torch.library.Library("air", "FRAGMENT")
    library.define("boundary_for_tests() -> ()")
    library.impl("boundary_for_tests", lambda: None, "CompositeExplicitAutograd")
    gm = traced(add_norm, inputs())
    with gm.graph.inserting_before(node_of(gm, "npu.npu_rms_norm.default")):
        gm.graph.call_function(torch.ops.air.boundary_for_tests.default)
    before = targets(gm)
    report = rewritten(gm, rule_named("add_rms_norm"), inputs())
    assert "stream or side-effect boundary" in reasons(report)
    assert targets(gm) == before


def test_streams_of_dynamo_are_boundaries_as_well():
    gm = traced(add_norm, inputs())
    with gm.graph.inserting_before(node_of(gm, "npu.npu_rms_norm.default")):
        gm.graph.call_function(torch.ops.streams.fork.default, (0, 1))
    report = rewrite(gm.graph, rule_named("add_rms_norm"), Context())
    assert "fork is a stream or side-effect boundary" in reasons(report)


def test_a_change_of_strides_is_refused_with_both():
    def columns(x, r, w):
        return add_spelled(x.t(), r.t(), w)

    def add_spelled(x: Rows, residual: Rows, gamma: Gain):
        return gamma * (x + residual)

    def contiguous(x: Tensor, residual: Tensor, gamma: Tensor):
        return (x * gamma + residual * gamma).contiguous()

    rule = Rule(add_spelled, contiguous, examples=[{"H": H}], name="contiguous")
    transposed = [torch.randn(H, 5), torch.randn(H, 5), torch.randn(H)]
    report = rewritten(traced(columns, transposed), [rule], transposed)
    assert "strides (16, 1) instead of (1, 5)" in reasons(report)
    assert rewritten(traced(add_spelled, inputs()), [rule], inputs()).fired == {"contiguous": 1}


def test_strides_of_one_row_do_not_matter():
    def scaled(x: Rows, gamma: Gain):
        return gamma * x.relu()

    def contiguous(x: Tensor, gamma: Tensor):
        return torch.where(x > 0, gamma * x, 0.0).contiguous()

    rule = Rule(scaled, contiguous, examples=[{"H": H}], name="one")
    given = [torch.randn(H, 1), torch.randn(H)]
    gm = traced(lambda x, gamma: scaled(x.t(), gamma), given)
    assert rewritten(gm, [rule], given).fired == {"one": 1}


def test_another_shape_or_dtype_of_the_result_is_refused():
    def spelled(x: Rows):
        return torch.relu(x) * 2

    wide = Rule(spelled, lambda x: (torch.relu(x) * 2).double(), examples=[{"H": H}], name="wide")
    flat = Rule(spelled, lambda x: (torch.relu(x) * 2)[..., :1], examples=[{"H": H}], name="flat")
    given = inputs()[:1]
    assert "float64 instead of float32" in reasons(rewritten(traced(spelled, given), [wide], given))
    assert "shape (5, 1) instead of (5, 16)" in reasons(
        rewritten(traced(spelled, given), [flat], given)
    )


def test_a_condition_that_does_not_hold_is_the_reason():
    def spelled(x: Rows):
        return torch.relu(x) * 2

    def where(H):
        yield H % 32 == 0, f"H is {H}, not a multiple of 32"

    rule = Rule(
        spelled, lambda x: torch.relu(x * 2), where, examples=[{"H": 32}], name="conditional"
    )
    given = inputs()[:1]
    report = rewritten(traced(spelled, given), [rule], given)
    assert reasons(report) == "conditional: H is 16, not a multiple of 32"
    assert report.misses[0].complete
    wide = [torch.randn(5, 64)]
    assert rewritten(traced(spelled, wide), [rule], wide).fired == {"conditional": 1}


def test_new_nodes_carry_the_rule_and_the_origin_of_the_old():
    gm = traced(add_norm, inputs())
    node_of(gm, "npu.npu_rms_norm.default").meta["stack_trace"] = "the model's line"
    rewritten(gm, rule_named("add_rms_norm"), inputs())
    new = node_of(gm, "npu.npu_add_rms_norm.default")
    assert new.meta["ascend_rule"] == "add_rms_norm"
    assert new.meta["stack_trace"] == "the model's line"
    assert [tuple(part.shape) for part in new.meta["val"]] == [(5, H), (5, 1), (5, H)]


def relu_of_relu(x: Rows):
    return torch.relu(torch.relu(x))


def test_rules_run_to_a_fixpoint():
    rule = Rule(
        relu_of_relu, lambda x: torch.relu(x), examples=[{"H": H}], name="once", shares=True
    )
    given = inputs()[:1]
    gm = traced(lambda x: x.relu().relu().relu().relu().relu(), given)
    assert rewritten(gm, [rule], given).fired == {"once": 4}
    assert targets(gm) == ["aten.relu.default"]


def test_the_wider_rule_gets_the_node():
    def narrow(x: Rows):
        return torch.relu(x) * 2

    def wide(x: Rows):
        return torch.relu(x.abs()) * 2

    given = inputs()[:1]
    both = [
        Rule(narrow, lambda x: torch.relu(x * 2), examples=[{"H": H}], name="a_narrow"),
        Rule(wide, lambda x: x.abs() * 2, examples=[{"H": H}], name="b_wide"),
    ]
    gm = traced(lambda x: torch.relu(x.abs()) * 2, given)
    assert rewritten(gm, both, given).fired == {"b_wide": 1}


def test_a_rule_that_comes_after_others_gets_what_they_leave():
    def wide(x: Rows):
        return torch.relu(x.abs()) * 2

    def narrow(x: Rows):
        return torch.relu(x) * 2

    first = Rule(narrow, lambda x: torch.relu(x * 2), examples=[{"H": H}], name="first")
    later = Rule(wide, lambda x: x.abs() * 2, examples=[{"H": H}], name="later", after=("first",))
    given = inputs()[:1]
    gm = traced(lambda x: torch.relu(x.abs()) * 2, given)
    assert rewritten(gm, [first, later], given).fired == {"first": 1}
    gm = traced(lambda x: torch.relu(x.abs()) * 2, given)
    assert rewritten(gm, [later], given).fired == {"later": 1}


PAIR = """
from typing import Annotated
import torch
from torch import Tensor
from ascend_passes import Rule

def pattern(x: Annotated[Tensor, "... H"]):
    return torch.{0}(x)

def replacement(x: Tensor):
    return torch.{1}(x)

rule = Rule(pattern, replacement, examples=[{{"H": 16}}])
"""


@pytest.fixture
def opposites(tmp_path):
    (tmp_path / "there.py").write_text(PAIR.format("sigmoid", "tanh"))
    (tmp_path / "back.py").write_text(PAIR.format("tanh", "sigmoid"))
    return {"rule_path": str(tmp_path), "rules": "-*,+there,+back,+add_rms_norm"}


def test_rules_that_undo_each_other_are_named(opposites):
    gm = traced(lambda x: torch.sigmoid(x), inputs()[:1])
    with pytest.raises(RewriteLoopError, match=r"undo each other after \d+ sweeps: (back|there)"):
        rewrite(gm.graph, rules(Options(**opposites)), Context())


def test_a_loop_is_reported_and_the_graph_is_as_it_was(opposites):
    given = inputs()
    gm = traced(lambda x, r, w: (torch.sigmoid(x), *add_norm(x, r, w)), given)
    before = gm.code
    report = optimize(gm, given, opposites)
    assert "fuse failed and was left out: RewriteLoopError" in report.errors[0]
    assert gm.code == before == report.graph_after
    assert not report.fired.get("there") and not report.fired.get("back")
    with pytest.raises(RewriteLoopError):
        optimize(
            traced(lambda x: torch.sigmoid(x), given[:1]), given[:1], {**opposites, "strict": True}
        )


def rotate_both(query, key, cos, sin):
    query, key = query * 1.5, key * 1.5
    return (
        npu.npu_rotary_mul(query, cos, sin, "half"),
        npu.npu_rotary_mul(key, cos, sin, "half"),
    )


def heads():
    shapes = [(2, 5, 4, 64), (2, 5, 2, 64), (2, 5, 1, 64), (2, 5, 1, 64)]
    return [torch.randn(shape) for shape in shapes]


def test_a_replacement_writes_values_that_only_the_match_reads():
    gm = traced(rotate_both, heads())
    report = rewritten(gm, rule_named("apply_rotary_pos_emb"), heads())
    assert report.fired == {"apply_rotary_pos_emb": 1}


@pytest.mark.parametrize("use", ["value", "view", "input"])
def test_a_replacement_does_not_write_what_others_read(use):
    def used(query, key, cos, sin):
        if use != "input":
            query = query * 1.5
        kept = query.view(-1)[3:] if use == "view" else query
        key = key * 1.5
        q = npu.npu_rotary_mul(query, cos, sin, "half")
        k = npu.npu_rotary_mul(key, cos, sin, "half")
        return (q, k) if use == "input" else (q, k, kept.relu())

    gm = traced(used, heads())
    report = rewritten(gm, rule_named("apply_rotary_pos_emb"), heads())
    assert not report.fired
    assert "which is used outside the pattern as well" in reasons(report)


def test_reading_a_size_of_what_a_replacement_writes_is_no_use():
    gm = traced(rotate_both, heads())
    query = gm.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)[0]
    output = gm.graph.output_node()
    with Editor(gm.graph).at(query, output) as edit:
        size = edit.known(2, torch.ops.aten.sym_size.int, query, 0)
        ones = edit.call(torch.ops.aten.full.default, [size], 1.0)
    output.args = ((*output.args[0], ones),)
    report = rewritten(gm, rule_named("apply_rotary_pos_emb"), heads())
    assert report.fired == {"apply_rotary_pos_emb": 1}


@pytest.mark.parametrize("same", [0, 1, 2])
def test_a_replacement_for_one_tensor_given_twice_serves_that_match_alone(same):
    def model(x, y, gamma):
        pairs = [(y, y) if index == same else (x, y) for index in range(3)]
        return [add_norm(one, other, gamma)[0] for one, other in pairs]

    gm = traced(model, inputs())
    report = rewritten(gm, rule_named("add_rms_norm"), inputs())
    assert report.fired == {"add_rms_norm": 3}


def test_parameters_of_equal_content_in_one_layer_change_no_other():
    class Gated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.up, self.down = (torch.nn.Linear(H, H, bias=False) for _ in range(3))

        def forward(self, x):
            gate = torch.nn.functional.silu(self.gate(x))
            return x + self.down(gate * self.up(x))

    torch._dynamo.reset()
    model = torch.nn.Sequential(Gated(), Gated())
    x = torch.randn(2, H)
    with torch.no_grad():
        model[1].up.weight.copy_(model[1].gate.weight)
        found = torch.compile(model, backend="ascend_dense")(x)
        torch.testing.assert_close(found, model(x), atol=1e-5, rtol=1e-5)


def test_a_replacement_does_not_write_one_tensor_as_two_inputs():
    def both(query, key, cos, sin):
        twice = query * 1.5
        return (
            npu.npu_rotary_mul(twice, cos, sin, "half"),
            npu.npu_rotary_mul(twice, cos, sin, "half"),
        )

    query, _, cos, sin = heads()
    given = [query, query.clone(), cos, sin]
    report = rewritten(traced(both, given), rule_named("apply_rotary_pos_emb"), given)
    assert not report.fired
    assert "which is another input of the pattern as well" in reasons(report)


def test_a_replacement_that_returns_its_input_serves_where_nobody_can_tell():
    def spelled(x: Rows):
        return torch.relu(torch.abs(x))

    rule = Rule(spelled, lambda x: x, examples=[{"H": H}], name="input")
    given = [torch.rand(5, H)]
    report = rewritten(traced(lambda x: torch.relu(x.abs()) * 2, given), [rule], given)
    assert report.fired == {"input": 1}
    for returned in (
        lambda x: torch.relu(x.abs()),
        lambda x: ((y := x * 2), torch.relu(y.abs()).view(-1)),
    ):
        report = rewritten(traced(returned, given), [rule], given)
        assert not report.fired
        assert "would share memory with" in reasons(report)


def test_a_replacement_that_returns_one_tensor_for_two_results():
    def two(x: Rows):
        y = torch.relu(x.abs())
        return y, torch.relu(y)

    def one(x: Rows):
        y = torch.relu(x.abs())
        return y, y.view(y.shape)

    rule = Rule(two, one, examples=[{"H": H}], name="one")
    given = inputs()[:1]
    report = rewritten(traced(two, given), [rule], given)
    assert not report.fired
    assert "would share memory with" in reasons(report)
    gm = traced(lambda x: (two(x)[0] + 1, two(x)[1] * 2), given)
    deduplicate(gm.graph, Context())
    assert rewritten(gm, [rule], given).fired == {"one": 1}


def test_the_sign_of_a_zero_is_part_of_a_pattern():
    def spelled(x: Rows):
        return torch.relu(x) + 0.0

    rule = Rule(spelled, lambda x: torch.relu(x) * 1.0, examples=[{"H": H}], name="zero")
    given = inputs()[:1]
    assert rewritten(traced(spelled, given), [rule], given).fired == {"zero": 1}
    other = traced(lambda x: torch.relu(x) + -0.0, given)
    assert not rewritten(other, [rule], given).fired


BROKEN = (
    PAIR.format("sigmoid", "tanh")
    + """
def where(x):
    yield x.no_such_attribute, "never"

rule = Rule(pattern, replacement, where, examples=[{"H": 16}], name="broken")
"""
)


def test_a_rule_that_raises_is_left_out_alone(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    given = inputs()
    options = {"rule_path": str(tmp_path), "rules": "-*,+broken,+add_rms_norm"}
    gm = traced(lambda x, r, w: (torch.sigmoid(x), *add_norm(x, r, w)), given)
    report = optimize(gm, given, options)
    (error,) = report.errors
    assert error.startswith("broken failed and was left out: AttributeError")
    assert report.fired["add_rms_norm"] == 1
    with pytest.raises(AttributeError):
        optimize(
            traced(lambda x: torch.sigmoid(x), given[:1]), given[:1], {**options, "strict": True}
        )
