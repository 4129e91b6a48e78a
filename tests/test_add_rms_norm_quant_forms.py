"""Every form that AddRMSNormQuant has becomes that one operator.

The space is the operator's signature: float16 and bfloat16 rows, scales and zero points of each
dtype that it or `npu_quantize` names, a bias or none, a second scale or none, each row with a zero
point or without, dividing and multiplying. Kept is what the limits of both operators allow on A2.
They differ in one point: what multiplies float16 rows is float16 to `npu_quantize`, while the fused
operator wants it float32 and int32 as everywhere beside float16. The scale fits; a zero point does
where it comes from whole numbers, so there the model casts one from int8.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ascend_passes import npu
from ascend_passes.engine.rule import refusal
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options
from ascend_passes.passes.deduplicate import deduplicate
from ascend_passes.verify.exact import distance, run_exactly, run_graph
from tests.graphs import recognized_and_fused, traced

INT8 = 1  # torch's number for the dtype
EPSILON = 1e-6
ROWS, H = 5, 64
FUSED = "npu.npu_add_rms_norm_quant.default"
ROW_DTYPES = (torch.bfloat16, torch.float16)
SCALE_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ZERO_DTYPES = (*SCALE_DTYPES, torch.int32, torch.int8, torch.uint8)
WHOLE = 32
"""Forms of one scale, and of two with zero points for both rows or for none."""
MIXED = 8
"""Forms of two scales where one row has a zero point; which of the two does not matter."""


@dataclass(frozen=True)
class Form:
    """One way to call the operator."""

    rows: torch.dtype
    scale: torch.dtype
    zero: torch.dtype | None
    bias: bool
    two: bool
    zero2: bool
    divide: bool

    def __str__(self) -> str:
        zero = "none" if self.zero is None else str(self.zero)
        words = (self.rows, self.scale, zero, self.bias, self.two, self.zero2, self.divide)
        return "-".join(str(word).removeprefix("torch.") for word in words)

    def points(self, zero):
        """The zero point of each row."""
        return [zero, zero if self.zero2 else None]


def space():
    """All calls of the signature; a second zero point stands beside a first one."""
    values = (ROW_DTYPES, SCALE_DTYPES, (None, *ZERO_DTYPES), *([(False, True)] * 4))
    for form in itertools.starmap(Form, itertools.product(*values)):
        if not form.zero2 or (form.two and form.zero is not None):
            yield form


def allowed(name, **given):
    """Whether no documented limit refuses a call."""
    return all(refusal(one) is None for one in npu.legality(name, given, Options().soc))


def is_legal(form):
    """Whether both operators allow a form."""
    x, gain = torch.empty(ROWS, H, dtype=form.rows), torch.empty(H, dtype=form.rows)
    scale = torch.empty(H, dtype=form.scale)
    zero = None if form.zero is None else torch.empty(H, dtype=form.zero)
    given = {"input": x, "scales": scale, "dtype": INT8, "axis": -1, "div_mode": form.divide}
    if not all(allowed("npu_quantize", **given, zero_points=point) for point in {zero, None}):
        return False
    if form.rows == torch.float16 and not form.divide:
        scale, zero = scale.float(), zero if zero is None else zero.int()
    points = dict(zip(("zero_points1", "zero_points2"), form.points(zero), strict=True))
    return allowed(
        "npu_add_rms_norm_quant",
        **dict(zip(("x1", "x2", "gamma"), (x, x, gain), strict=True)),
        **{**points, "scales1": scale, "scales2": scale if form.two else None},
        **{"beta": gain if form.bias else None, "div_mode": form.divide},
    )


FORMS = [form for form in space() if is_legal(form)]


def is_mixed(form):
    return form.two and form.zero is not None and not form.zero2


def test_the_space_holds_the_forms_of_the_signature():
    assert len([form for form in FORMS if not is_mixed(form)]) == WHOLE
    assert len([form for form in FORMS if is_mixed(form)]) == MIXED


def normed(x: Tensor, residual: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """RMSNorm of a sum as Hugging Face writes it, and the sum."""
    total = x + residual
    wide = total.float()
    rms = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    return gamma * (wide * rms).to(x.dtype), total


def is_cast(form):
    """Whether a form's zero points are cast from whole numbers."""
    return form.zero == torch.float16 and not form.divide


def model_of(form):
    """A form as a model's lines, of x, residual, gamma, and for each row a scale and a zero point,
    then a bias."""

    def model(x, residual, gamma, scale, scale2, zero, zero2, bias):
        y, total = normed(x, residual, gamma)
        y = y + bias if form.bias else y
        if is_cast(form):
            zero, zero2 = zero.to(x.dtype), zero2.to(x.dtype)
        pairs = [(scale, form.points(zero)[0]), (scale2, form.points(zero2)[1])]
        rows = pairs if form.two else pairs[:1]
        given = (INT8, -1, form.divide)
        quantized = [npu.npu_quantize(y, s, z if form.zero else None, *given) for s, z in rows]
        return *quantized, total

    return model


def inputs_of(form, size):
    """Random inputs whose rows fill int8 without leaving it."""
    sign = 1 if form.divide else -1
    scales = [2.0 ** (-5 * sign) * (1 + torch.rand(size)) for _ in range(2)]
    stored = torch.int8 if is_cast(form) else form.zero or form.rows
    zeros = [torch.randint(1, 9, (size,)).to(stored) for _ in range(2)]
    x, residual = (torch.randn(ROWS, H).to(form.rows) for _ in range(2))
    gamma, bias = ((torch.rand(H) / 2 + 0.5).to(form.rows) for _ in range(2))
    return [x, residual, gamma, *(scale.to(form.scale) for scale in scales), *zeros, bias]


def kernels(gm):
    """The operators on rows."""
    names = [str(node.target) for node in gm.graph.nodes if node.op == "call_function"]
    return [name for name in names if name.startswith("npu.") or name == "aten.rsqrt.default"]


@pytest.mark.parametrize("swapped", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("form", [form for form in FORMS if is_mixed(form)], ids=str)
def test_a_row_with_a_zero_point_beside_one_without(form, swapped):
    model = model_of(form)

    def turned(*given):
        first, second, total = model(*given)
        return (second, first, total) if swapped else (first, second, total)

    assert_one_operator(turned, inputs_of(form, 1))


@pytest.mark.parametrize("size", [1, H], ids=["one", "row"])
@pytest.mark.parametrize("form", [form for form in FORMS if not is_mixed(form)], ids=str)
def test_every_form_is_one_operator(form, size):
    assert_one_operator(model_of(form), inputs_of(form, size))


def assert_one_operator(model, inputs):
    """The model is one operator after the rules, and no further from float64 than it was, or than
    a step of int8 and a unit of the sum."""
    gm = traced(model, inputs)
    before = torch.fx.GraphModule(gm, copied(gm.graph))
    deduplicate(gm.graph, Context())
    report = recognized_and_fused(gm.graph)
    gm.recompile()
    assert kernels(gm) == [FUSED], str(report)
    assert report.fired["add_rms_norm_quant"] == 1
    assert sum(report.spellings[name] for name in report.spellings if "quant" in name) == 1
    results = zip(
        run_graph(before, inputs), run_graph(gm, inputs), run_exactly(before, inputs), strict=True
    )
    *rows, (old, new, _) = results
    assert torch.equal(old, new)
    for old, new, true in rows:
        step = torch.ones((), dtype=torch.float64)
        assert new.unique().numel() > H // 4  # the rows are no constant
        assert distance(new, true, step) <= max(1.0, distance(old, true, step))


def test_a_float16_zero_point_that_may_be_no_whole_number_stays():
    form = Form(torch.float16, torch.float16, torch.float16, False, False, False, divide=False)
    x, residual, gamma, scale, *_ = inputs_of(form, 1)
    half = torch.full((1,), 0.5, dtype=torch.float16)

    def model(x, residual, gamma, scale, zero):
        y, total = normed(x, residual, gamma)
        return npu.npu_quantize(y, scale, zero, INT8, -1, False), total

    inputs = [x, residual, gamma, scale, half]
    gm = traced(model, inputs)
    report = recognized_and_fused(gm.graph)
    gm.recompile()
    assert "add_rms_norm_quant" not in report.fired
    assert any("may be no whole number" in miss.reason for miss in report.misses)
    for old, new in zip(
        run_graph(traced(model, inputs), inputs), run_graph(gm, inputs), strict=True
    ):
        assert torch.equal(old, new)
