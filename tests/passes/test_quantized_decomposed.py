"""torch.ao's quantized models run as NPU operators, and what stays says why."""

from __future__ import annotations

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import nn
from torch.nn.functional import linear

import ascend_passes

quantized = torch.ops.quantized_decomposed
INT8 = (-128, 127, torch.int8)
TOKENS, WIDTH, CHANNELS = 5, 64, 96
SCALE = 2.0**-5
"""A power of 2: bfloat16 holds it, and dividing by it is multiplying by its reciprocal."""
HALF_ULP = 0.5 + 2**-7
"""bfloat16 rounds once; float32 in front of that adds less than this in units of 2**-24."""


class Linear(nn.Module):
    """A linear layer as torch.ao's conversion leaves it: int8 weight, a scale for each channel."""

    def __init__(self, bias=False, dtype=torch.bfloat16, offset=0):
        super().__init__()
        source = torch.Generator().manual_seed(1)
        self.dtype = dtype
        weight = torch.randint(-127, 128, (CHANNELS, WIDTH), generator=source)
        self.register_buffer("weight", weight.to(torch.int8))
        self.register_buffer("scales", (0.5 + torch.rand(CHANNELS, generator=source)) / 1000)
        self.register_buffer("zero_points", torch.zeros(CHANNELS, dtype=torch.int64))
        self.register_buffer("scale", torch.tensor(SCALE))
        self.register_buffer("zero_point", torch.tensor(offset))
        self.bias = (
            nn.Parameter(torch.randn(CHANNELS, generator=source).to(dtype)) if bias else None
        )

    def read(self):
        args = (self.weight, self.scales, self.zero_points, 0, -127, 127, torch.int8)
        return quantized.dequantize_per_channel(*args, out_dtype=self.dtype)

    def exact(self, rows):
        """The layer on rows that are read back, in float64."""
        weight = (self.weight.double() - self.zero_points[:, None]) * self.scales.double()[:, None]
        return rows @ weight.T + (0 if self.bias is None else self.bias.double())


class Numbers(Linear):
    """Scale and zero point of the activations are numbers, as after a static calibration."""

    def __init__(self, offset=0, **given):
        super().__init__(offset=offset, **given)
        self.given = (SCALE, offset, *INT8)

    def forward(self, x):
        row = quantized.quantize_per_tensor(x, *self.given)
        row = quantized.dequantize_per_tensor(row, *self.given, out_dtype=self.dtype)
        return linear(row, self.read(), self.bias)


class Tensors(Linear):
    """Scale and zero point of the activations are buffers."""

    def forward(self, x):
        given = (self.scale, self.zero_point, *INT8)
        row = quantized.quantize_per_tensor.tensor(x, *given)
        row = quantized.dequantize_per_tensor.tensor(row, *given, out_dtype=self.dtype)
        return linear(row, self.read(), self.bias)


class Tokens(Linear):
    """A scale for each token, chosen while running."""

    def forward(self, x):
        scales, points = quantized.choose_qparams_per_token(x, torch.int8)
        row = quantized.quantize_per_token(x, scales, points, *INT8)
        row = quantized.dequantize_per_token(row, scales, points, *INT8, self.dtype)
        return linear(row, self.read(), self.bias)


@torch.no_grad()
def compiled(model, *inputs, **given):
    """The report of one compilation, and the result."""
    torch._dynamo.reset()
    ascend_passes.reset()
    result = torch.compile(model, backend="ascend_dense", **given)(*inputs)
    (report,) = ascend_passes.reports()
    assert not report.errors
    return report, result


def assert_one_matmul(report, name):
    """The layer is a quantize and a matmul of int8, and nothing of it is computed beside them."""
    assert report.fired[name] == 1, str(report)
    assert report.graph_after.count("npu.npu_quant_matmul.default") == 1
    for left in ("quantized_decomposed", "aten.add", "aten.mul", "aten.mm", "aten.round"):
        assert left not in report.graph_after, report.graph_after


def activations(*leading, dtype=torch.bfloat16):
    source = torch.Generator().manual_seed(2)
    return torch.randn(*leading, WIDTH, generator=source).to(dtype)


def ulps(result, exact):
    """The largest error in units of bfloat16's last place at the largest number of a row."""
    largest = exact.abs().amax(-1, keepdim=True)
    unit = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 8)
    return float(((result.double() - exact).abs() / unit).max())


def codes(x, offset):
    """The rows, read back, as npu_quantize makes them: it rounds behind the zero point.

    torch.ao rounds in front of it; half a step goes to another neighbour where the point is odd.
    """
    return (x.double() / SCALE + offset).round().clamp(-128, 127).sub(offset) * SCALE


@pytest.mark.parametrize("leading", [(TOKENS,), (2, 3)], ids=["rows", "sequences"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("offset", [0, 7], ids=["symmetric", "offset"])
@pytest.mark.parametrize("kind", [Numbers, Tensors])
def test_static(kind, offset, bias, leading):
    model, x = kind(bias=bias, offset=offset), activations(*leading)
    report, result = compiled(model, x)
    assert_one_matmul(report, "quant_matmul_static")
    assert not report.misses
    assert ulps(result, model.exact(codes(x, offset))) <= HALF_ULP


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_per_token(bias, dynamic):
    model, x = Tokens(bias=bias), activations(TOKENS)
    report, result = compiled(model, x, dynamic=dynamic)
    assert_one_matmul(report, "quant_matmul_dynamic")
    scale = x.float().abs().amax(-1, keepdim=True) / 127
    exact = model.exact((x.float() / scale).round().double() * scale.double())
    assert ulps(result, exact) <= HALF_ULP
    assert ulps(result, exact) <= ulps(model(x), exact)


def test_a_norm_in_front_takes_the_quantization():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Numbers(), Numbers(bias=True)
            self.norm = nn.RMSNorm(WIDTH, eps=1e-6, dtype=torch.bfloat16)

        def forward(self, x, residual):
            total = x + residual
            row = self.norm(total)
            return self.first(row), self.second(row), total

    block, x = Block(), activations(TOKENS)
    report, results = compiled(block, x, x.flip(0))
    assert report.fired["add_rms_norm_quant"] == 1  # both layers take one quantized row
    assert report.fired["quant_matmul_static"] == 2
    assert report.graph_after.count("npu.npu_quant_matmul.default") == 2
    eager = block(x, x.flip(0))
    assert torch.equal(results[2], eager[2])
    step = SCALE * block.first.scales.max() * 127  # one LSB of one activation
    assert (results[0].double() - eager[0].double()).abs().max() <= step * WIDTH**0.5


def test_zero_points_that_change_are_seen():
    model, x = Numbers(), activations(TOKENS)
    torch._dynamo.reset()
    ascend_passes.reset()
    run = torch.compile(model, backend="ascend_dense")
    with torch.no_grad():
        run(x)
        model.zero_points.fill_(3)
        result, again = run(x), run(x)
    assert torch.equal(result, again)
    assert torch.equal(result, model(x))
    first, second = ascend_passes.reports()  # compiled again once, not at each call
    assert first.fired["quant_matmul_static"] == 1
    assert "quant_matmul_static" not in second.fired
    assert "symmetric weights" in reasons(second)


def test_zero_points_may_be_left_unread():
    report, _ = compiled(Numbers(), activations(TOKENS), options={"passes": "-find_zero_points"})
    assert "quant_matmul_static_decomposed" not in report.fired
    assert "symmetric weights" in reasons(report)


def reasons(report):
    return "; ".join(miss.reason for miss in report.misses)


def narrow(model):
    model.given = (SCALE, 0, -127, 127, torch.int8)
    return model


def asymmetric(model):
    model.zero_points.fill_(1)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (narrow(Numbers()), "it clamps to [-127, 127], npu_quantize to [-128, 127]"),
        (asymmetric(Numbers()), "npu_quant_matmul takes symmetric weights"),
        (Numbers(dtype=torch.float32), "npu_quant_matmul gives float16 or bfloat16, not float32"),
        (Numbers(dtype=torch.float16), "float16 from one scale only with an int64 one"),
        (Tokens(dtype=torch.float32), "npu_quant_matmul gives float16 or bfloat16, not float32"),
    ],
    ids=["range", "zero-points", "float32", "float16", "float32-tokens"],
)
def test_what_stays_says_why(model, reason):
    x = activations(TOKENS, dtype=model.dtype)
    report, result = compiled(model, x)
    assert reason in reasons(report)
    assert not any(name.startswith("quant_matmul") for name in report.fired)
    eager = model(x)
    assert (result - eager).abs().max() <= torch.finfo(model.dtype).eps * eager.abs().max()


def test_a_row_that_is_read_in_float32_keeps_the_exact_scale():
    model, x = Numbers(dtype=torch.float32), activations(TOKENS)
    model.given = (0.0301, 0, *INT8)  # bfloat16 has 0.03003
    report, result = compiled(model, x)
    assert report.fired["quantized_decomposed_quantize_per_tensor"] == 1
    assert torch.equal(result, model(x))


def test_codes_that_somebody_else_reads_stay():
    class Both(Tokens):
        def forward(self, x):
            scales, points = quantized.choose_qparams_per_token(x, torch.int8)
            row = quantized.quantize_per_token(x, scales, points, *INT8)
            back = quantized.dequantize_per_token(row, scales, points, *INT8, self.dtype)
            return linear(back, self.read()), row

    model, x = Both(), activations(TOKENS)
    report, (result, row) = compiled(model, x)
    assert "read otherwise than by dequantize_per_token" in reasons(report)
    assert torch.equal(row, model(x)[1])
    assert torch.equal(result, model(x)[0])


@pytest.mark.parametrize("per_token", [False, True])
def test_a_row_that_is_not_dense_keeps_its_layout(per_token):
    decomposed = torch.ops.quantized_decomposed

    def read_back(x):
        scale, zero = 0.03125, 3
        kind = "per_token" if per_token else "per_tensor"
        if per_token:
            scale, zero = decomposed.choose_qparams_per_token(x, torch.int8)
        row = getattr(decomposed, f"quantize_{kind}")(x, scale, zero, -128, 127, torch.int8)
        given = (row, scale, zero, -128, 127, torch.int8)
        if per_token:
            return decomposed.dequantize_per_token(*given, torch.bfloat16)
        return decomposed.dequantize_per_tensor(*given, out_dtype=torch.bfloat16)

    x = torch.randn(8, 16).bfloat16().t()
    report, result = compiled(read_back, x)
    assert result.stride() == read_back(x).stride() == (1, 16)
    assert any("not dense" in miss.reason for miss in report.misses)
