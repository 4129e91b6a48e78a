"""What a rule matches, and what it must not: each graph is run against what it was."""

from typing import Annotated

import pytest
import torch
from torch import Tensor

from ascend_passes import Rule, npu
from ascend_passes.engine.match import Stop, match, stops_at_once
from ascend_passes.engine.registry import rules
from ascend_passes.engine.rule import RuleError
from ascend_passes.engine.template import outlines
from ascend_passes.options.value import Options

from .graphs import reasons, recognized, rewritten, targets, traced

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
H = 16


def norm(x, gamma, eps):
    return gamma * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def add_norm(x: Rows, residual: Rows, gamma: Gain, *, eps: float):
    total = x + residual
    return norm(total, gamma, eps), total


def fused(x: Tensor, residual: Tensor, gamma: Tensor, *, eps: float):
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return y, total


ADD_NORM = Rule(add_norm, fused, examples=[{"H": H}], name="add_norm")
both_kinds_of_sizes = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])


def rows(*leading):
    return [torch.randn(*leading, H), torch.randn(*leading, H), torch.randn(H)]


def fired(function, inputs, dynamic=False, rule=ADD_NORM):
    gm = traced(function, inputs, dynamic)
    return rewritten(gm, [rule], inputs).fired.get(rule.name, 0)


def known(function, inputs, dynamic=False):
    """What is recognized by meaning, and how often."""
    return recognized(traced(function, inputs, dynamic), inputs).fired


def refused(function, inputs, dynamic=False, rule=ADD_NORM):
    gm = traced(function, inputs, dynamic)
    before = targets(gm)
    report = rewritten(gm, [rule], inputs)
    assert not report.fired
    assert targets(gm) == before
    return reasons(report)


@both_kinds_of_sizes
@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.5])
def test_any_epsilon_is_bound(eps, dynamic):
    assert fired(lambda x, r, w: add_norm(x, r, w, eps=eps), rows(5), dynamic) == 1


@both_kinds_of_sizes
def test_operands_may_be_swapped(dynamic):
    def swapped(x, r, w):
        total = r + x
        rsqrt = torch.rsqrt(1e-6 + total.pow(2).mean(-1, keepdim=True))
        return (rsqrt * total) * w, total

    assert fired(swapped, rows(5), dynamic) == 1


@both_kinds_of_sizes
def test_several_matches_share_inputs(dynamic):
    def chain(x, r, w):
        for _ in range(4):
            x, r = add_norm(x, r, w, eps=1e-6)
        return x, r

    assert fired(chain, rows(5), dynamic) == 4


@both_kinds_of_sizes
def test_an_early_user_of_one_result_stays_in_order(dynamic):
    def early(x, r, w):
        total = x + r
        used = total.relu()
        return norm(total, w, 1e-6), total, used

    assert fired(early, rows(5), dynamic) == 1


@both_kinds_of_sizes
def test_an_input_made_behind_an_early_user_moves_in_front_of_it(dynamic):
    def early(x, r, w):
        total = x + r
        used = total.relu()
        gamma = w.sigmoid() * 2
        return norm(total, gamma, 1e-6), used

    assert fired(early, rows(5), dynamic) == 1


@both_kinds_of_sizes
def test_an_input_may_not_depend_on_a_result(dynamic):
    def cycle(x, r, w):
        total = x + r
        return norm(total, w + total.sum(0), 1e-6), total

    assert "an input depends on an output" in refused(cycle, rows(5), dynamic)


@both_kinds_of_sizes
def test_a_shared_intermediate_is_refused_by_name(dynamic):
    def shared(x, r, w):
        total = x + r
        rsqrt = torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6)
        return w * (total * rsqrt), total, rsqrt

    assert "rsqrt has 2 users, 1 outside the pattern" in refused(shared, rows(5), dynamic)


def test_a_shared_intermediate_stays_for_its_users_where_the_rule_shares():
    def doubled(x: Rows):
        return torch.relu(x) * 2

    rule = Rule(
        doubled, lambda x: torch.relu(x * 2), examples=[{"H": H}], name="doubled", shares=True
    )

    def shared(x):
        kept = torch.relu(x)
        return kept * 2, kept + 1

    inputs = rows(5)[:1]
    gm = traced(shared, inputs)
    assert rewritten(gm, [rule], inputs).fired == {"doubled": 1}
    assert targets(gm).count("aten.relu.default") == 2


@both_kinds_of_sizes
def test_an_extra_keyword_is_another_operation(dynamic):
    def scaled(x, r, w):
        total = torch.add(x, r, alpha=3)
        return norm(total, w, 1e-6), total

    assert "literal 3 is not 1" in refused(scaled, rows(5), dynamic)


def test_an_extra_keyword_of_the_pattern_is_needed_as_well():
    def tripled(x: Rows, y: Rows):
        return torch.add(x, y, alpha=3).relu()

    rule = Rule(tripled, lambda x, y: torch.relu(x + 3 * y), examples=[{"H": H}], name="tripled")
    inputs = rows(5)[:2]
    assert fired(lambda x, y: torch.add(x, y, alpha=3).relu(), inputs, rule=rule) == 1
    assert fired(lambda x, y: torch.add(y, x, alpha=3).relu(), inputs, rule=rule) == 1
    assert fired(lambda x, y: (x + y).relu(), inputs, rule=rule) == 0


@pytest.mark.parametrize("form", ["negative", "keywords", "defaults"])
def test_call_forms_of_one_operation_are_equal(form):
    inputs = rows(5)
    gm = traced(lambda x, r, w: add_norm(x, r, w, eps=1e-6), inputs)
    nodes = {str(node.target): node for node in gm.graph.nodes}
    mean, add = nodes["aten.mean.dim"], nodes["aten.add.Tensor"]
    source = mean.args[0]
    if form == "negative":
        mean.args = (source, [-1 if mean.args[1] == [1] else 1], True)
    elif form == "keywords":
        mean.args, mean.kwargs = (source,), {"keepdim": True, "dim": [-1]}
    else:
        mean.kwargs = {"dtype": None}
        add.kwargs = {"alpha": 1}
    assert rewritten(gm, [ADD_NORM], inputs).fired == {"add_norm": 1}


def test_another_dim_or_literal_does_not_match():
    square = [torch.randn(H, H), torch.randn(H, H), torch.randn(H)]

    def columns(x, r, w):
        total = x + r
        return w * (total * torch.rsqrt(total.pow(2).mean(0, keepdim=True) + 1e-6)), total

    def cubed(x, r, w):
        total = x + r
        return w * (total * torch.rsqrt(total.abs().pow(3).mean(-1, keepdim=True) + 1e-6)), total

    assert fired(columns, square) == 0
    assert fired(cubed, square) == 0


@both_kinds_of_sizes
@pytest.mark.parametrize("leading", [(), (5,), (2, 5), (2, 3, 5)], ids=len)
def test_leading_sizes_may_be_any(leading, dynamic):
    assert fired(lambda x, r, w: add_norm(x, r, w, eps=1e-6), rows(*leading), dynamic) == 1


def test_more_leading_sizes_than_a_rule_knows_are_left_alone():
    assert fired(lambda x, r, w: add_norm(x, r, w, eps=1e-6), rows(2, 1, 2, 3, 5)) == 0


def test_broadcast_operands_are_not_equal_sizes():
    one = [torch.randn(5, H), torch.randn(1, H), torch.randn(H)]
    assert fired(lambda x, r, w: add_norm(x, r, w, eps=1e-6), one) == 0
    lower = [torch.randn(5, H), torch.randn(H), torch.randn(H)]
    assert fired(lambda x, r, w: add_norm(x, r, w, eps=1e-6), lower) == 0


def test_sizes_of_slices_are_compared():
    inputs = [torch.randn(5, H), torch.randn(7, H), torch.randn(H)]
    assert fired(lambda x, r, w: add_norm(x[:3], r[2:5], w, eps=1e-6), inputs) == 1
    assert fired(lambda x, r, w: add_norm(x[:1], r[2:5], w, eps=1e-6), inputs) == 0


@both_kinds_of_sizes
@pytest.mark.parametrize("shape", [(5, 2 * H), (7, 6), (1, 2 * H), (2, 3, 2 * H)], ids=str)
@pytest.mark.parametrize("form", ["chunk", "split", "slices"])
def test_packed_swiglu_of_any_size(form, shape, dynamic):
    def model(x):
        half = x.shape[-1] // 2
        gate, up = {
            "chunk": lambda: x.chunk(2, -1),
            "split": lambda: x.split(half, -1),
            "slices": lambda: (x[..., :half], x[..., half:]),
        }[form]()
        return up * torch.nn.functional.silu(gate)

    assert known(model, [torch.randn(shape)], dynamic) == {"swiglu": 1}


@both_kinds_of_sizes
@pytest.mark.parametrize(
    ("columns", "gate", "up", "rule"),
    [
        (8, (4, 8), (0, 4), "swiglu"),
        (8, (0, 2), (2, 4), "swiglu_unpacked"),
        (7, (0, 3), (4, 7), "swiglu_unpacked"),
        (5, (0, 4), (4, 5), None),
    ],
    ids=["swapped", "partial", "uneven", "broadcast"],
)
def test_only_halves_are_one_packed_value(columns, gate, up, rule, dynamic):
    def model(x):
        return torch.nn.functional.silu(x[..., slice(*gate)]) * x[..., slice(*up)]

    wanted = {rule: 1} if rule else {}
    assert known(model, [torch.randn(3, columns)], dynamic) == wanted


@both_kinds_of_sizes
def test_lists_of_tensors_match_by_order_and_length(dynamic):
    def rotated(x: Rows, y: Rows):
        return torch.cat([-x, y], -1).relu()

    def flipped(x: Tensor, y: Tensor):
        return torch.cat([torch.relu(-x), torch.relu(y)], -1)

    rule = Rule(rotated, flipped, examples=[{"H": H}], name="rotated")
    inputs = rows(5)[:2]
    assert fired(lambda x, y: torch.cat([-x, y], -1).relu(), inputs, dynamic, rule) == 1
    assert fired(lambda x, y: torch.cat([y, -x], -1).relu(), inputs, dynamic, rule) == 0
    assert fired(lambda x, y: torch.cat([-x, y, y], -1).relu(), inputs, dynamic, rule) == 0
    assert fired(lambda x, y: torch.cat([-x, y], 0).relu(), inputs, dynamic, rule) == 0


def test_one_input_used_twice_needs_one_tensor():
    def gated(x: Rows):
        return torch.sigmoid(x) * x

    rule = Rule(gated, lambda x: torch.nn.functional.silu(x), examples=[{"H": H}], name="gated")
    inputs = rows(5)[:2]
    assert fired(lambda x, y: torch.sigmoid(x) * x + y, inputs, rule=rule) == 1
    assert fired(lambda x, y: torch.sigmoid(x) * y, inputs, rule=rule) == 0


def test_constants_of_the_model_are_inputs_like_others():
    gain = torch.rand(H).tolist()
    inputs = rows(5)[:2]
    assert fired(lambda x, r: add_norm(x, r, torch.tensor(gain), eps=1e-6), inputs) == 1


def test_an_even_size_that_cannot_be_proved_is_refused():
    gm = traced(packed, [torch.randn(5, H)], dynamic=True, fixed=0)
    inputs = [torch.randn(5, H)]

    def even(x: Annotated[Tensor, "... 2*H"]):
        return packed(x)

    rule = Rule(even, lambda x: npu.npu_swiglu(x, -1), examples=[{"H": H}], name="even")
    report = rewritten(gm, [rule], inputs)
    assert not report.fired and "cannot be proved" in reasons(report)
    assert not recognized(gm, inputs).fired


def test_a_pattern_or_replacement_with_a_tensor_of_its_own_is_an_error_of_the_rule():
    def constant(x: Rows):
        return torch.relu(x) * torch.tensor(3.0)

    def tripled(x: Rows):
        return torch.relu(x) * 3

    inputs = rows(5)[:1]
    one = Rule(constant, lambda x: torch.relu(x * 3), examples=[{"H": H}], name="one")
    with pytest.raises(RuleError, match=r"one\.constant.*number"):
        rewritten(traced(constant, inputs), [one], inputs)
    other = Rule(
        tripled, lambda x: torch.relu(x) * torch.tensor(3.0), examples=[{"H": H}], name="other"
    )
    with pytest.raises(RuleError, match=r"other.*number"):
        rewritten(traced(tripled, inputs), [other], inputs)


def test_a_scalar_or_input_that_a_pattern_ignores_is_an_error_of_the_rule():
    def ignores(x: Rows, y: Rows, *, eps: float):
        return torch.relu(x) * 2

    rule = Rule(ignores, lambda x: x, examples=[{"H": H}], name="ignores")
    with pytest.raises(RuleError, match="does not use eps, y"):
        rewritten(traced(lambda x: torch.relu(x) * 2, rows(5)[:1]), [rule], rows(5)[:1])


def test_two_scalars_may_have_one_value_and_one_scalar_not_two():
    def clamped(x: Rows, *, low: float, high: float):
        return (x * low + high).relu() * low

    def made(x: Tensor, *, low: float, high: float):
        return torch.where(x * low + high > 0, (x * low + high) * low, 0.0)

    rule = Rule(clamped, made, examples=[{"H": H}], name="clamped")
    inputs = rows(5)[:1]
    assert fired(lambda x: (x * 0.5 + 0.5).relu() * 0.5, inputs, rule=rule) == 1
    assert fired(lambda x: (x * 0.5 + 0.7).relu() * 0.5, inputs, rule=rule) == 1
    assert fired(lambda x: (x * 0.5 + 0.7).relu() * 0.6, inputs, rule=rule) == 0


def packed(x):
    half = x.shape[-1] // 2
    return torch.nn.functional.silu(x[..., :half]) * x[..., half:]


def rope_factor(tokens, pairs):
    angles = torch.rand(1, tokens, 1, pairs)
    return torch.polar(torch.ones_like(angles), angles)


@both_kinds_of_sizes
def test_complex_rope(dynamic):
    def rotate(x, factor):
        pairs = x.float().reshape(*x.shape[:-1], -1, 2)
        return torch.view_as_real(torch.view_as_complex(pairs) * factor).flatten(3).type_as(x)

    inputs = [torch.randn(2, 5, 4, 64), rope_factor(5, 32)]
    assert known(rotate, inputs, dynamic) == {"rotary_mul_interleaved": 1}


@both_kinds_of_sizes
def test_rotate_half_rope(dynamic):
    def rotate(x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def wrong_half(x, cos, sin):
        half = x.shape[-1] // 2 - 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    inputs = [torch.randn(2, 4, 5, 64), torch.randn(2, 1, 5, 64), torch.randn(2, 1, 5, 64)]
    assert known(rotate, inputs, dynamic) == {"rotary_mul": 1}
    assert known(wrong_half, inputs, dynamic) == {}


def test_a_dtype_that_the_rule_does_not_take_is_left_alone():
    inputs = [tensor.double() for tensor in rows(5)]
    assert fired(lambda x, r, w: add_norm(x, r, w, eps=1e-6), inputs) == 0


def test_an_epsilon_that_is_a_tensor_is_no_number():
    inputs = [*rows(5), torch.tensor(1e-6)]
    assert fired(lambda x, r, w, e: add_norm(x, r, w, eps=e), inputs) == 0


def test_a_look_at_one_argument_tells_no_more_than_a_match_would():
    """In either order of the operands, and over every rule."""

    def swapped(x, residual, gamma, scale, gate):
        y, _ = npu.npu_rms_norm(residual + x, gamma[0], 1e-6)
        rows = npu.npu_quantize(gamma[1] + y, scale[0, :1], None, 1, -1, True)
        other, _ = npu.npu_gemma_rms_norm(x + y, gamma[2], 1e-6)
        return rows, npu.npu_dynamic_quant(other), npu.npu_dynamic_quant(npu.npu_swiglu(gate, -1))

    gm = traced(swapped, [torch.randn(4, 64).bfloat16() for _ in range(5)])
    present = frozenset(node.target for node in gm.graph.nodes)
    skipped = tried = 0
    for outline in (one for rule in rules(Options()) for one in every_outline(rule, present)):
        anchor = outline.steps[outline.anchor].target
        for node in gm.graph.find_nodes(op="call_function", target=anchor):
            found = match(outline, node, loose=True)
            at_once = stops_at_once(outline, node)
            assert not at_once or (isinstance(found, Stop) and found.depth == 1)
            skipped, tried = skipped + at_once, tried + 1
    assert 0 < skipped < tried


def every_outline(rule, present):
    return outlines(rule, [torch.bfloat16, torch.float32], "cpu", present)
