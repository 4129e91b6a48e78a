"""The kernels against float64, within the bounds that their operators state.

On a GPU they run as compiled; elsewhere Triton's interpreter runs them, which needs the package
`triton`: `tests/conformance/test_interpreted_kernels.py` sees to that.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ascend_passes import npu
from ascend_passes.npu import bound
from ascend_passes.npu.accuracy import DYNAMIC_ERROR, FLOAT16_ROUNDINGS, FLOAT16_UNIT
from tests.npu.kernel_runs import (
    BRAIN,
    DEVICE,
    HALF,
    HALVES,
    INTERPRETED,
    SINGLE,
    gains,
    needs_triton,
    normal,
    rounding_interpreter,
    run,
    source,
)
from tests.numerics import lsb_distance, ulp_distance

__all__ = ["rounding_interpreter", "source"]
pytestmark = needs_triton
WIDTHS = (128, 200) if INTERPRETED else (128, 1000, 5120, 16384)
ROWS = 3 if INTERPRETED else 37
BFLOAT16_CODE, FLOAT16_CODE = 15, 5


def norm64(x, gamma, epsilon=1e-6):
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * gamma.double()


def quantize_error(dtype, values, steps):
    """LSB: half a step, and what float16 rounds of the values in front of it."""
    if dtype != HALF:
        return 0.501
    return 0.501 + float(FLOAT16_ROUNDINGS * FLOAT16_UNIT * (values.abs() / steps).max())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", (*HALVES, SINGLE))
def test_norms(source, width, dtype):
    x, residual = (normal(source, ROWS, width, dtype=dtype, spread=2.0) for _ in range(2))
    gamma = gains(source, width, dtype)
    y, rstd = run("npu_rms_norm", x, gamma, 1e-6)
    assert ulp_distance(y, norm64(x, gamma)) <= bound("npu_rms_norm", "y", dtype)
    exact = (x.double().pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert ulp_distance(rstd, exact) <= bound("npu_rms_norm", "rstd", dtype)
    y, _, total = run("npu_add_rms_norm", x, residual, gamma, 1e-6)
    exact = x.double() + residual.double()
    assert ulp_distance(total, exact) <= bound("npu_add_rms_norm", "x1 + x2", dtype)
    assert ulp_distance(y, norm64(total, gamma)) <= bound("npu_add_rms_norm", "y", dtype)
    y, _ = run("npu_gemma_rms_norm", x, gamma, 1e-6)
    exact = norm64(x, 1 + gamma.double())
    assert ulp_distance(y, exact) <= bound("npu_gemma_rms_norm", "y", dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_float32_gain_rounds_once(source, dtype):
    x, gamma = normal(source, ROWS, WIDTHS[1], dtype=dtype), gains(source, WIDTHS[1], SINGLE)
    y, _ = run("npu_rms_norm", x, gamma, 1e-6)
    allowed = bound("npu_rms_norm", "y with a float32 gamma", dtype)
    assert ulp_distance(y, norm64(x, gamma)) <= allowed


@pytest.mark.parametrize("dtype", HALVES)
def test_a_gain_of_the_rows_dtype_rounds_twice(source, dtype):
    """Some element must differ from a single rounding, or the documented rounding is not there."""
    x, gamma = normal(source, 16, 512, dtype=dtype), gains(source, 512, dtype)
    y, _ = run("npu_rms_norm", x, gamma, 1e-6)
    assert 0 < (y != norm64(x, gamma).to(dtype)).float().mean() < 0.9


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("shift", [True, False])
def test_static_quantize_behind_a_norm(source, width, dtype, divide, one, shift):
    x, residual = (normal(source, ROWS, width, dtype=dtype) for _ in range(2))
    gamma = gains(source, width, dtype)
    beta = normal(source, width, dtype=dtype) if shift else None
    count = 1 if one else width
    size = 0.03 if divide else 30.0
    scales = [(size * (0.5 + torch.rand(count, generator=source))).to(dtype) for _ in range(2)]
    zeros = [torch.randint(-20, 20, (count,), generator=source).to(dtype) for _ in range(2)]
    y1, y2, total = run(
        "npu_add_rms_norm_quant", x, residual, gamma, scales[0], zeros[0], beta, scales[1],
        zeros[1], epsilon=1e-6, div_mode=divide,
    )  # fmt: skip
    exact = norm64(total, gamma) + (0 if beta is None else beta.double())
    for y, scale, zero in zip((y1, y2), scales, zeros, strict=True):
        factor = scale.double()
        value = exact / factor if divide else exact * factor
        allowed = quantize_error(dtype, exact, factor if divide else 1 / factor)
        assert lsb_distance(y, value + zero.double()) <= allowed


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("shift", [True, False])
def test_dynamic_quantize_behind_a_norm(source, width, dtype, smooth, shift):
    x, residual = (normal(source, ROWS, width, dtype=dtype) for _ in range(2))
    gamma = gains(source, width, dtype)
    beta = normal(source, width, dtype=dtype) if shift else None
    smooths = [gains(source, width, dtype) if smooth else None for _ in range(2)]
    y1, y2, total, scale1, scale2 = run(
        "npu_add_rms_norm_dynamic_quant", x, residual, gamma, smooth_scale1=smooths[0],
        smooth_scale2=smooths[1], beta=beta, epsilon=1e-6, output_mask=[True, smooth],
    )  # fmt: skip
    plain = norm64(total, gamma) + (0 if beta is None else beta.double())
    for y, scale, by in ((y1, scale1, smooths[0]), (y2, scale2, smooths[1]))[: 1 + smooth]:
        values = plain if by is None else plain * by.double()
        steps = values.abs().amax(-1, keepdim=True) / 127
        slack = DYNAMIC_ERROR if dtype == BRAIN else FLOAT16_ROUNDINGS * FLOAT16_UNIT
        assert ((scale.double().unsqueeze(-1) - steps).abs() <= 1.01 * slack * steps).all()
        allowed = quantize_error(dtype, values, steps) + 127 * slack
        assert lsb_distance(y, values / steps) <= allowed


@pytest.mark.parametrize("width", (*WIDTHS, 3 * WIDTHS[-1]))
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("smooth", [True, False])
def test_dynamic_quantize(source, width, dtype, smooth):
    x = normal(source, ROWS, width, dtype=dtype)
    x[1] = 0
    by = gains(source, width, dtype) if smooth else None
    y, scale = run("npu_dynamic_quant", x, smooth_scales=by)
    values = x.double() if by is None else x.double() * by.double()
    steps = values.abs().amax(-1, keepdim=True) / 127
    assert ulp_distance(scale, steps.squeeze(-1)) <= bound("npu_dynamic_quant", "scale", dtype)
    assert y[1].eq(0).all()
    exact = values / torch.where(steps == 0, 1.0, steps)
    assert lsb_distance(y, exact) <= bound("npu_dynamic_quant", "y", dtype)


def test_quantize_of_nan_infinity_and_ties(source):
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 127.0] + [0.0] * 10], dtype=BRAIN)
    y, scale = run("npu_dynamic_quant", x)
    assert scale.tolist() == [1.0]
    assert y[0, :6].tolist() == [0, 2, 2, 0, -2, 127]
    x = torch.ones(1, 32, dtype=BRAIN)
    beta = torch.zeros(32, dtype=BRAIN)
    beta[:3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    one, zero = torch.ones(1, dtype=BRAIN), torch.zeros(1, dtype=BRAIN)
    y, _, _ = run("npu_add_rms_norm_quant", x, x, torch.ones_like(beta), one, zero, beta)
    assert y[0, :4].tolist() == [0, 127, -128, 1]


def quantized_by_division(x):
    """float32's own quotients; zero where a row has NaN or an element is one beside infinity."""
    values = x.float()
    scale = values.abs().amax(-1) / 127
    divided = values / torch.where(scale == 0, 1.0, scale).unsqueeze(-1)
    return divided.nan_to_num(nan=0.0).round().clamp(-128, 127).to(torch.int8), scale


@pytest.mark.parametrize("exponent", [-149, -133, -120, -100, -94, 0, 60, 107, 120])
def test_rows_of_any_size_are_quantized_as_a_division_does(source, exponent):
    """A reciprocal overflows for the smallest, and loses bits for the largest."""
    x = torch.randn(4, WIDTHS[1], generator=source)
    x = torch.ldexp(x / x.abs().amax(-1, keepdim=True), torch.tensor(exponent + 7))
    y, scale = run("npu_dynamic_quant", x)
    wanted, steps = quantized_by_division(x)
    assert torch.equal(scale, steps) and torch.equal(y, wanted)


@pytest.mark.parametrize("odd", ["nan", "inf", "-inf"])
def test_a_row_that_is_not_finite_has_a_scale_that_says_so(source, odd):
    x = normal(source, 3, WIDTHS[1], dtype=BRAIN)
    x[1, 7] = float(odd)
    gated = torch.cat([x, torch.ones_like(x)], -1)
    for y, scale in (run("npu_dynamic_quant", x), run("npu_swiglu_quant", gated, quant_mode=1)):
        assert scale.isfinite().tolist() == [True, False, True]
        assert scale[1].isnan() == (odd == "nan")
        assert y[1].eq(0).all() and y[0].ne(0).any()
    ones = torch.ones(WIDTHS[1], dtype=BRAIN)
    _, _, _, scale, _ = run("npu_add_rms_norm_dynamic_quant", x, x, ones)
    assert scale[0].isfinite() and not (scale[1] > 0)


@pytest.mark.parametrize("width", (*WIDTHS, 25600 if not INTERPRETED else 320))
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("left", [True, False])
def test_swiglu(source, width, dtype, left):
    x = normal(source, ROWS, 2 * width, dtype=dtype)
    first, second = x.double().chunk(2, -1)
    gate, up = (first, second) if left else (second, first)
    exact = gate / (1 + torch.exp(-gate)) * up
    if left:
        y = run("npu_swiglu", x, -1)
        assert ulp_distance(y, exact) <= bound("npu_swiglu", "y", dtype)
    smooth = gains(source, width, SINGLE).reshape(1, -1)
    y, scale = run("npu_swiglu_quant", x, smooth_scales=smooth, activate_left=left, quant_mode=1)
    values = exact * smooth.double()
    steps = values.abs().amax(-1, keepdim=True) / 127
    assert ((scale.double().unsqueeze(-1) - steps).abs() <= DYNAMIC_ERROR * steps).all()
    assert lsb_distance(y, values / steps) <= 0.501 + 127 * DYNAMIC_ERROR
    if left:
        pair = run("npu_dynamic_quant", run("npu_swiglu", x, -1))
        both = run("swiglu_then_quant", x)
        assert all(torch.equal(one, other) for one, other in zip(both, pair, strict=True))
    offset = torch.randint(-20, 20, (1, width), generator=source).float()
    static = 30 * smooth
    y, _ = run("npu_swiglu_quant", x, smooth_scales=static, offsets=offset, activate_left=left)
    assert lsb_distance(y, exact * static.double() + offset.double()) <= 0.501


@pytest.mark.parametrize("mode", ["half", "interleave"])
@pytest.mark.parametrize("heads", [1, 8, 40])
@pytest.mark.parametrize("dtype", HALVES)
def test_rotary(source, mode, heads, dtype):
    x = normal(source, 2, 3, heads, 128, dtype=dtype).clamp(-8, 8)
    angle = 6 * torch.rand(2, 3, 1, 128, generator=source)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    y = run("npu_rotary_mul", x, cos, sin, mode)
    wide = x.double()
    if mode == "half":
        low, high = wide.chunk(2, -1)
        turned = torch.cat([-high, low], -1)
    else:
        turned = torch.stack([-wide[..., 1::2], wide[..., ::2]], -1).flatten(-2)
    parts = wide * cos.double(), turned * sin.double()
    exact = parts[0] + parts[1]
    unit = torch.finfo(dtype).eps * torch.exp2(exact.abs().clamp(min=1e-30).log2().floor())
    assert ((y.double() - exact).abs() <= 0.5 * unit + 2.0**-20).all()


PRODUCTS = ((1, 64, 256), (5, 96, 200)) if INTERPRETED else (
    (1, 5120, 8192), (3, 1000, 776), (33, 5120, 25600), (200, 1000, 776), (1000, 5120, 2048)
)  # fmt: skip


@pytest.mark.parametrize("sizes", PRODUCTS)
@pytest.mark.parametrize("kind", ["plain", "rows", "int32 bias", "float bias", "words", "one"])
@pytest.mark.parametrize("code", [BFLOAT16_CODE, FLOAT16_CODE])
def test_int8_matmul(source, sizes, kind, code):
    m, n, k = sizes
    left = torch.randint(-128, 128, (m, k), generator=source, dtype=torch.int8)
    right = torch.randint(-128, 128, (n, k), generator=source, dtype=torch.int8)
    scale = (0.5 + torch.rand(1 if kind == "one" else n, generator=source)) / (70 * k**0.5)
    rows = 0.5 + torch.rand(m, generator=source) if kind in ("rows", "float bias") else None
    total = left.double() @ right.double().t()
    bias, factor = None, scale.double()
    if kind == "int32 bias":
        bias = torch.randint(-(2**20), 2**20, (n,), generator=source, dtype=torch.int32)
        total = total + bias.double()
    if kind == "words":
        scale = npu.npu_trans_quant_param(scale)
        factor = ((scale & 0xFFFFE000).to(torch.int32)).view(torch.float32).double()
    exact = total * factor * (1 if rows is None else rows.double().unsqueeze(-1))
    slack = 0.0
    if kind == "float bias":
        bias = torch.randn(n, generator=source)
        slack = 2.0**-20  # where the bias cancels the product
        exact = exact + bias.double()
    y = run("npu_quant_matmul", left, right.t(), scale, pertoken_scale=rows, bias=bias,
            output_dtype=code)  # fmt: skip
    unit = torch.finfo(y.dtype).eps * torch.exp2(exact.abs().clamp(min=1e-30).log2().floor())
    allowed = bound("npu_quant_matmul", "y", y.dtype) * unit.clamp(min=2.0**-24) + slack
    assert ((y.double() - exact).abs() <= allowed).all()


def test_every_tile_gives_the_same_bits(source):
    from ascend_passes.npu.cuda.matmul import ProductCall, launch_product
    from ascend_passes.npu.cuda.tiles import Tile

    m, n, k = 20, 192, 1056
    left, right = (
        torch.randint(-128, 128, (count, k), generator=source, dtype=torch.int8).to(DEVICE)
        for count in (m, n)
    )
    scale = torch.rand(n, generator=source).to(DEVICE) / 1000
    tiles = [Tile(16, 32, 128), Tile(32, 64, 128, 4), Tile(16, 64, 128, 2, turned=True),
             Tile(64, 64, 64, few=False), Tile(128, 128, 128, few=False, tma=True)]  # fmt: skip
    found = []
    for tile in tiles:
        out = torch.full((m, n), float("nan"), dtype=BRAIN, device=DEVICE)
        launch_product(ProductCall(left, right, scale, None, None, out), tile)
        found.append(out)
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert not found[0].isnan().any()


def test_what_a_kernel_does_not_take_is_told_and_runs_as_the_reference(caplog):
    from ascend_passes.npu.cuda.choose import tell_once, with_kernel

    tell_once.cache_clear()
    operator = npu.OPERATORS["npu_rms_norm"]
    x, gamma = torch.randn(4, 6, 8, device=DEVICE), torch.randn(6, 8, device=DEVICE)
    for _ in range(2):
        y, _ = with_kernel(operator)(x, gamma, 1e-6)
        assert torch.equal(y, operator.reference(x, gamma, 1e-6)[0])
    assert [record.getMessage() for record in caplog.records] == [
        "npu_rms_norm runs as its reference: the kernel does not take a gain of 2 dims"
    ]


@pytest.mark.cuda
@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
def test_kernels_are_captured_and_never_wait_for_the_host(source):
    from tests.bench.device_timing import captured

    x, residual = (normal(source, 8, 1024, dtype=BRAIN).cuda() for _ in range(2))
    weight = torch.randint(-128, 128, (2048, 1024), dtype=torch.int8, device="cuda").t()
    scale, gamma = torch.rand(2048, device="cuda"), torch.ones(1024, dtype=BRAIN, device="cuda")
    out: list[Tensor] = []

    def step():
        y, _, total, row, _ = npu.npu_add_rms_norm_dynamic_quant(x, residual, gamma)
        gate = npu.npu_quant_matmul(
            y, weight, scale, pertoken_scale=row, output_dtype=BFLOAT16_CODE
        )
        out[:] = [total, *npu.npu_swiglu_quant(gate, quant_mode=1)]

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    replay = captured(step)
    x.copy_(normal(source, 8, 1024, dtype=BRAIN))
    replay()
    found = [t.clone() for t in out]
    step()
    assert all(torch.equal(a, b) for a, b in zip(found, out, strict=True))
