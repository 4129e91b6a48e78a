"""Whatever parts a spelling is composed of, it becomes its operator, and a wrong part keeps it."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.recognition import gates, integers, norms, rotations
from tests.recognition.harness import assert_right, recognized, results_of

HALVES = (torch.bfloat16, torch.float16)
KINDS = (*HALVES, torch.float32)
DRAWN = settings(max_examples=40, deadline=None, phases=[Phase.generate])


def rows(*shape, dtype=torch.bfloat16, seed=0):
    """Normal numbers, none of them near zero."""
    found = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (found + 0.1 * found.sign()).to(dtype)


def scales(*shape, dtype=torch.float32, seed=1):
    """Numbers from 1/2 to 3/2."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.5).to(dtype)


def one_of(table):
    """A key of a table of parts."""
    return st.sampled_from(sorted(table))


@DRAWN
@given(
    one_of(norms.SQUARES),
    one_of(norms.MEANS),
    one_of(norms.ROOTS),
    one_of(norms.GAINS),
    one_of(norms.LAYOUTS),
    st.sampled_from(KINDS),
    st.sampled_from(["static", "one row", "dynamic"]),
)
def test_norms(square, mean, root, gain, layout, kind, sizes):
    parts = norms.SQUARES[square], norms.MEANS[mean], norms.ROOTS[root], norms.GAINS[gain]
    spelled, place = norms.norm(*parts), norms.LAYOUTS[layout]

    def spelling(x, g):
        return spelled(place(x), g)

    count = 1 if sizes == "one row" and layout in ("rows", "part") else 8
    inputs = rows(count, norms.H, dtype=kind), scales(norms.H, dtype=kind)
    dynamic = sizes == "dynamic" and layout == "rows" and gain != "addcmul"
    gm, report = recognized(spelling, inputs, dynamic)
    assert sum(report.fired.values()) == 1, report
    assert not any("widened" in name for name in report.fired)
    assert "aten.rsqrt" not in gm.code and "aten.mean" not in gm.code
    assert_right(gm, spelling, inputs, 2.0)


@pytest.mark.parametrize("gain", [True, False])
def test_halves_of_one_widened_value_are_told_apart(gain):
    """Two pieces of one structure, whose rows are cut from one value behind its cast."""

    def spelling(x, g):
        parts = x.float().chunk(2, -1)
        normed = (v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + 1e-6) for v in parts)
        return tuple((v * g.float() if gain else v).to(x.dtype) for v in normed)

    inputs = rows(5, 2 * norms.H), scales(norms.H, dtype=torch.bfloat16)
    gm, report = recognized(spelling, inputs)
    assert sum(report.fired.values()) == 2, report
    assert_right(gm, spelling, inputs, 2.0)


WRONG_NORMS = [(axis, name) for axis, table in norms.WRONG.items() for name in table]


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("axis", "name"), WRONG_NORMS)
def test_norms_with_a_wrong_part_stay(axis, name, kind, count):
    right = {"SQUARES": "pow", "MEANS": "mean", "ROOTS": "rsqrt"}
    parts = {key: getattr(norms, key)[part] for key, part in right.items()}
    parts[axis] = norms.WRONG[axis][name]
    spelling = norms.norm(*parts.values(), norms.GAINS["after"])
    inputs = rows(count, norms.H, dtype=kind), scales(norms.H, dtype=kind)
    _, report = recognized(spelling, inputs)
    assert not report.fired, report.fired


@pytest.mark.parametrize("count", [1, 8])
def test_a_norm_of_a_norm_is_two(count):
    """Of a single row the two of them have the direction of one."""
    inner, outer = (
        norms.norm(norms.SQUARES["pow"], norms.MEANS["mean"], norms.ROOTS["rsqrt"], gain)
        for gain in (norms.GAINS["after"], norms.GAINS["none"])
    )

    def spelling(x, g):
        return outer(inner(x, g), g)

    inputs = rows(count, norms.H), scales(norms.H, dtype=torch.bfloat16)
    gm, report = recognized(spelling, inputs)
    assert report.fired == {"rms_norm": 1, "rms_norm_without_gain": 1}
    assert_right(gm, spelling, inputs, 3.0)


def test_rows_over_their_length_are_rounded_once():
    """Their gain, 1 / sqrt(10), is no bfloat16."""
    x = rows(4000, 10)

    def spelling(x):
        return torch.nn.functional.normalize(x, dim=-1)

    gm, report = recognized(spelling, (x,))
    assert report.fired == {"rms_norm_without_gain": 1}
    exact = spelling(x.double())
    apart = (results_of(gm, (x,))[0].double() - exact).abs() / exact.abs()
    assert apart.max() <= 2**-8 + 2**-20


@DRAWN
@given(
    one_of({**gates.SILU, **gates.GELU}),
    one_of(gates.PACKED),
    st.sampled_from(KINDS),
    st.booleans(),
)
def test_packed_gates(activation, part, kind, dynamic):
    spelling = gates.packed(gates.PACKED[part], {**gates.SILU, **gates.GELU}[activation])
    inputs = (rows(6, 48, dtype=kind),)
    gm, report = recognized(spelling, inputs, dynamic)
    wanted = "swiglu" if activation in gates.SILU else "geglu"
    assert report.fired == {wanted: 1}, report
    assert_right(gm, spelling, inputs, 3.0)


@pytest.mark.parametrize("activation", gates.SILU)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gates_apart(activation, kind):
    spelling = gates.apart(gates.SILU[activation])
    inputs = rows(6, 48, dtype=kind), rows(6, 48, dtype=kind, seed=2)
    gm, report = recognized(spelling, inputs)
    assert report.fired == {"swiglu_unpacked": 1}, report
    assert_right(gm, spelling, inputs, 2.0)


@pytest.mark.parametrize("activation", gates.WRONG)
def test_other_activations_stay(activation):
    for spelling, inputs in (
        (gates.apart(gates.WRONG[activation]), (rows(6, 48), rows(6, 48, seed=2))),
        (gates.packed(gates.PACKED["chunk"], gates.WRONG[activation]), (rows(6, 48),)),
    ):
        assert not recognized(spelling, inputs)[1].fired


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("place", rotations.PLACES)
@pytest.mark.parametrize("form", [*rotations.WHOLE, *rotations.HALF])
def test_rotations(form, place, kind):
    shape, beside = rotations.PLACES[place]
    whole = form in rotations.WHOLE
    turn = {**rotations.WHOLE, **rotations.HALF}[form]
    table = torch.cat((rotations.angles(),) * 2, -1) if whole else rotations.angles()
    inputs = rows(*shape, dtype=kind), table.cos().to(kind), table.sin().to(kind)

    def spelling(x, cos, sin):
        return turn(x, beside(cos), beside(sin))

    gm, report = recognized(spelling, inputs)
    wanted = "rotary_mul_interleaved" if form == "stacked" else "rotary_mul"
    assert report.fired == {wanted: 1}, report
    assert_right(gm, spelling, inputs, 2.0)


@pytest.mark.parametrize("place", rotations.PLACES)
def test_complex_rotations(place):
    shape, beside = rotations.PLACES[place]
    angles = rotations.angles()
    inputs = rows(*shape), torch.polar(torch.ones_like(angles), angles)

    def spelling(x, factor):
        return rotations.complex_pairs(x, beside(factor))

    gm, report = recognized(spelling, inputs)
    assert report.fired == {"rotary_mul_interleaved": 1}, report
    assert_right(gm, spelling, inputs, 4.0)  # the operator wants the tables in bfloat16


@pytest.mark.parametrize("form", rotations.WRONG)
def test_no_rotations_stay(form):
    shape, beside = rotations.PLACES["sequences"]
    table = torch.cat((rotations.angles(),) * 2, -1)
    inputs = rows(*shape), table.cos().bfloat16(), table.sin().bfloat16()

    def spelling(x, cos, sin):
        return rotations.WRONG[form](x, beside(cos), beside(sin))

    fired = recognized(spelling, inputs)[1].fired
    assert not fired or form in ("added to", "squared")  # a rotation is inside


@pytest.mark.parametrize(
    ("scaled", "whole"), list(itertools.product(integers.SCALED, integers.WHOLE))
)
def test_stored_scales(scaled, whole):
    def spelling(x, s):
        return integers.WHOLE[whole](integers.SCALED[scaled](x, s))

    inputs = rows(6, integers.K), torch.tensor([0.0234375]).bfloat16()
    gm, report = recognized(spelling, inputs)
    assert report.fired == {"quantize_static": 1}, report
    x, s = inputs
    exact = (x.double() / s.double()).clamp(-128, 127)
    assert gm(x, s).dtype == torch.int8
    assert ((gm(x, s).double() - exact).abs() <= 0.501).all()


@pytest.mark.parametrize("shape", [(1, integers.K), (1, 1, integers.K), (6, integers.K)])
def test_rows_read_back(shape):
    """With one row as with many, and with a scale by which small rows are all zero."""
    for scale in (0.0234375, 4.0):
        inputs = rows(*shape), torch.tensor([scale]).bfloat16()

        def spelling(x, s):
            return (x / s).clamp(-128.0, 127.0).round() * s

        gm, report = recognized(spelling, inputs)
        assert report.fired == {"quantize_static": 1}, report
        x, _ = inputs
        held = x.double().clamp(-128 * scale, 127 * scale)
        apart = (gm(*inputs).double() - held).abs()
        assert (apart <= 0.501 * scale + 2.0**-8 * x.double().abs()).all()


@pytest.mark.parametrize("largest", integers.LARGEST)
@pytest.mark.parametrize("steps", [127, 127.5])
def test_scales_of_rows(largest, steps):
    def spelling(x):
        scale = integers.LARGEST[largest](x.float()) / steps
        return (x / scale).round().clamp(-128, 127).to(torch.int8), scale

    x = rows(6, integers.K)
    gm, report = recognized(spelling, (x,))
    assert report.fired == {"quantize_dynamic": 1}, report
    row, scale = gm(x)
    # What the row stands for is within half a step of x, by the scale that comes with it.
    assert ((row.double() * scale.double() - x.double()).abs() <= scale.double() * 0.501).all()


@pytest.mark.parametrize("form", integers.WRONG)
def test_no_quantizes_stay(form):
    inputs = rows(6, integers.K), torch.tensor([0.02]).bfloat16()
    assert not recognized(integers.WRONG[form], inputs)[1].fired


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("sum_", integers.SUMS)
@pytest.mark.parametrize("behind", integers.BEHIND)
def test_products(sum_, behind, count):
    source = torch.Generator().manual_seed(3)
    q, w = (
        torch.randint(-127, 128, shape, generator=source, dtype=torch.int8)
        for shape in ((count, integers.K), (integers.COLUMNS, integers.K))
    )
    inputs = q, w, scales(integers.COLUMNS) * 0.01, scales(count)

    def spelling(q, w, c, r):
        return integers.BEHIND[behind](integers.SUMS[sum_](q, w), c, r)

    gm, report = recognized(spelling, inputs)
    assert sum(report.fired.values()) == 1, report
    assert_right(gm, spelling, inputs, 1.0)


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("column", [False, True])
def test_products_of_what_is_read_back(count, column):
    """Of a single row the weight's scales are as many as the result has elements."""
    shapes = (count, integers.K), (integers.COLUMNS, integers.K)
    source = torch.Generator().manual_seed(4)
    q, w = (torch.randint(-127, 128, s, generator=source, dtype=torch.int8) for s in shapes)
    c = scales(integers.COLUMNS, 1) if column else scales(1, integers.COLUMNS)

    def spelling(q, w, c, residual):
        right = (w.float() * c).t() if column else w.float().t() * c
        return ((q.float() * 0.25) @ right).bfloat16() + residual

    inputs = q, w, c, rows(count, integers.COLUMNS) * 100
    gm, report = recognized(spelling, inputs)
    assert report.fired == {"quant_matmul_static": 1}, report
    assert "aten.add" in gm.code, "the residual belongs to the norm behind it"
    assert_right(gm, spelling, inputs, 2.0)
