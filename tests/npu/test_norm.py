from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ascend_passes import npu
from ascend_passes.npu import bound
from ascend_passes.npu.accuracy import DYNAMIC_ERROR, FLOAT16_ROUNDINGS, FLOAT16_UNIT
from tests.npu.draw import epsilons, floats, gains, generator, halves, normal, seeds, tokens
from tests.numerics import lsb_distance, ulp_distance

widths = st.integers(1, 70)
scales = st.sampled_from((0.03, 0.5, 3.0))


def norm64(x: Tensor, gamma: Tensor, epsilon: float) -> Tensor:
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * gamma.double()


@given(seeds, tokens, widths, floats, epsilons)
def test_rms_norm(seed, rows, width, dtype, epsilon):
    source = generator(seed)
    x, gamma = normal(source, rows, width, dtype=dtype), gains(source, width, dtype)
    y, rstd = npu.npu_rms_norm(x, gamma, epsilon)
    assert ulp_distance(y, norm64(x, gamma, epsilon)) <= bound("npu_rms_norm", "y", dtype)
    exact = (x.double().pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
    assert ulp_distance(rstd, exact) <= bound("npu_rms_norm", "rstd", dtype)


@given(seeds, tokens, widths, halves)
def test_rms_norm_with_float32_gamma_rounds_once(seed, rows, width, dtype):
    source = generator(seed)
    x, gamma = normal(source, rows, width, dtype=dtype), gains(source, width, torch.float32)
    y, _ = npu.npu_rms_norm(x, gamma, 1e-6)
    assert y.dtype == dtype
    allowed = bound("npu_rms_norm", "y with a float32 gamma", dtype)
    assert ulp_distance(y, norm64(x, gamma, 1e-6)) <= allowed


def test_rms_norm_over_two_dims():
    x = torch.randn(3, 4, 5, dtype=torch.float32)
    gamma = torch.randn(4, 5)
    y, rstd = npu.npu_rms_norm(x, gamma, 0.5)
    exact = norm64(x.flatten(1), gamma.flatten(), 0.5).reshape(3, 4, 5)
    assert rstd.shape == (3, 1, 1)
    assert ulp_distance(y, exact) <= bound("npu_rms_norm", "y", torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_rounds_the_normalized_value_before_the_gain(dtype):
    """Some element must differ from a single rounding, or the documented rounding is not there."""
    source = generator(torch.seed() % 2**31)
    x, gamma = normal(source, 64, 512, dtype=dtype), gains(source, 512, dtype)
    y, _ = npu.npu_rms_norm(x, gamma, 1e-6)
    once = (x.float() * x.float().pow(2).mean(-1, True).add(1e-6).rsqrt() * gamma.float()).to(dtype)
    assert 0 < (y != once).float().mean() < 0.9


@given(seeds, tokens, widths, floats, epsilons)
def test_gemma_rms_norm(seed, rows, width, dtype, epsilon):
    source = generator(seed)
    x, gamma = normal(source, rows, width, dtype=dtype), gains(source, width, dtype)
    y, _ = npu.npu_gemma_rms_norm(x, gamma, epsilon)
    exact = norm64(x, 1 + gamma.double(), epsilon)
    assert ulp_distance(y, exact) <= bound("npu_gemma_rms_norm", "y", dtype)


@given(seeds, tokens, widths, floats, epsilons)
def test_add_rms_norm(seed, rows, width, dtype, epsilon):
    source = generator(seed)
    x1, x2 = (normal(source, rows, width, dtype=dtype, spread=2.0) for _ in range(2))
    gamma = gains(source, width, dtype)
    y, _, total = npu.npu_add_rms_norm(x1, x2, gamma, epsilon)
    allowed = bound("npu_add_rms_norm", "x1 + x2", dtype)
    assert ulp_distance(total, x1.double() + x2.double()) <= allowed
    exact = norm64(total, gamma, epsilon)
    assert ulp_distance(y, exact) <= bound("npu_add_rms_norm", "y", dtype)


@given(seeds, tokens, widths, halves)
def test_add_rms_norm_cast(seed, rows, width, dtype):
    source = generator(seed)
    x1, x2 = (normal(source, rows, width, dtype=dtype) for _ in range(2))
    gamma = gains(source, width, dtype)
    wide, y, rstd, total = npu.npu_add_rms_norm_cast(x1, x2, gamma, 0.5)
    expected = npu.npu_add_rms_norm(x1, x2, gamma, 0.5)
    assert wide.dtype == torch.float32
    assert torch.equal(wide, y.float())
    for ours, theirs in zip((y, rstd, total), expected, strict=True):
        assert torch.equal(ours, theirs)


@given(seeds, tokens, widths, halves, epsilons, scales, st.booleans(), st.booleans())
def test_add_rms_norm_quant(seed, rows, width, dtype, epsilon, size, divide, two):
    source = generator(seed)
    x1, x2 = (normal(source, rows, width, dtype=dtype) for _ in range(2))
    gamma = gains(source, width, dtype)
    beta = normal(source, width, dtype=dtype) if two else None
    half = dtype == torch.float16
    kind = (torch.float32, torch.int32) if half else (dtype, dtype)
    first, second = (
        (
            (size * (0.5 + torch.rand(width, generator=source))).to(kind[0]),
            torch.randint(-20, 20, (width,), generator=source).to(kind[1]),
        )
        for _ in range(2)
    )
    others = second if two else (None, None)
    y1, y2, total = npu.npu_add_rms_norm_quant(
        x1, x2, gamma, *first, beta, *others, epsilon=epsilon, div_mode=divide
    )
    allowed = bound("npu_add_rms_norm_quant", "x1 + x2", dtype)
    assert ulp_distance(total, x1.double() + x2.double()) <= allowed
    nearest = bound("npu_add_rms_norm_quant", "y", dtype)
    values = norm64(total, gamma, epsilon) + (0 if beta is None else beta.double())
    slack = rounding_slack(values, first[0], divide) if half else 0.0
    assert lsb_distance(y1, quantized64(values, *first, divide)) <= nearest + slack
    if not two:
        return
    slack = rounding_slack(values, second[0], divide) if half else 0.0
    assert lsb_distance(y2, quantized64(values, *second, divide)) <= nearest + slack


def quantized64(values: Tensor, scale: Tensor, zero_point: Tensor, divide: bool) -> Tensor:
    wide = scale.double()
    return (values / wide if divide else values * wide) + zero_point.double()


def rounding_slack(values: Tensor, scale: Tensor, divide: bool) -> float:
    """The float16 roundings of the value, in LSB: of results up to the clamp and of beta."""
    if values.numel() == 0:
        return 0.0
    spread = float((1 / scale.double() if divide else scale.double()).max())
    largest = min(float(values.abs().max()) * spread, 127 + 20)
    return FLOAT16_ROUNDINGS * FLOAT16_UNIT * (largest + 3 * spread)


def test_quantize_rounds_half_to_even():
    """x normalizes to exactly 1; gamma makes ties of both parities."""
    x = torch.ones(1, 4, dtype=torch.bfloat16)
    gamma = torch.tensor([0.5, 1.5, 2.5, -0.5], dtype=torch.bfloat16)
    one, zero = torch.ones(4, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.bfloat16)
    y, _, _ = npu.npu_add_rms_norm_quant(x, 0 * x, gamma, one, zero, epsilon=0.0)
    assert y.tolist() == [[0, 2, 2, 0]]


@given(seeds, tokens, widths, halves, st.booleans(), st.booleans())
def test_add_rms_norm_dynamic_quant(seed, rows, width, dtype, smooth, two):
    source = generator(seed)
    x1, x2 = (normal(source, rows, width, dtype=dtype) for _ in range(2))
    gamma = gains(source, width, dtype)
    first = gains(source, width, dtype) if smooth or two else None
    second = gains(source, width, dtype) if two else None
    beta = normal(source, width, dtype=dtype) if two else None
    y1, y2, total, scale1, scale2 = npu.npu_add_rms_norm_dynamic_quant(
        x1, x2, gamma, smooth_scale1=first, smooth_scale2=second, beta=beta, epsilon=0.5
    )
    allowed = bound("npu_add_rms_norm_dynamic_quant", "x1 + x2", dtype)
    assert ulp_distance(total, x1.double() + x2.double()) <= allowed
    nearest = bound("npu_add_rms_norm_dynamic_quant", "y", dtype)
    values = norm64(total, gamma, 0.5) + (0 if beta is None else beta.double())
    half = dtype == torch.float16
    for y, scale, factor in ((y1, scale1, first), (y2, scale2, second))[: 1 + two]:
        smoothed = values if factor is None else values * factor.double()
        largest = smoothed.abs().amax(-1)
        term = (values.abs() + 3) * (1 if factor is None else factor.double().abs())
        relative = FLOAT16_ROUNDINGS * FLOAT16_UNIT if half else DYNAMIC_ERROR
        error = relative * term.amax(-1)
        assert bool(((scale.double() * 127 - largest).abs() <= error).all())
        exact = smoothed / scale.double().unsqueeze(-1)
        slack = float((error / scale.double()).max()) if rows else 0.0
        assert lsb_distance(y, exact) <= nearest + slack
    if not two:
        assert y2.shape == scale2.shape == (0,)


def test_dynamic_quant_output_mask_picks_the_second_output():
    x, gamma = torch.randn(3, 8).bfloat16(), torch.ones(8).bfloat16()
    y1, y2, _, scale1, scale2 = npu.npu_add_rms_norm_dynamic_quant(
        x, x, gamma, smooth_scale2=3 * gamma, output_mask=[False, True]
    )
    plain = npu.npu_add_rms_norm_dynamic_quant(x, x, 3 * gamma)
    assert y1.shape == scale1.shape == (0,)
    assert torch.equal(y2, plain[0])
    assert torch.allclose(scale2, plain[3])


@given(seeds, tokens, widths, halves, scales)
def test_rms_norm_quant(seed, rows, width, dtype, size):
    source = generator(seed)
    x, gamma = normal(source, rows, width, dtype=dtype), gains(source, width, dtype)
    beta = normal(source, width, dtype=dtype)
    scale, offset = torch.tensor([size]).to(dtype), torch.tensor([-7], dtype=torch.int8)
    y = npu.npu_rms_norm_quant(x, gamma, beta, scale, offset, 0.5)
    values = norm64(x, gamma, 0.5) + beta.double()
    slack = rounding_slack(values, scale, False) if dtype == torch.float16 else 0.0
    nearest = bound("npu_rms_norm_quant", "y", dtype)
    assert lsb_distance(y, quantized64(values, scale, offset, False)) <= nearest + slack


@given(seeds, tokens, widths, halves, scales, st.booleans())
def test_rms_norm_quant_v2(seed, rows, width, dtype, size, divide):
    source = generator(seed)
    x, gamma = normal(source, rows, width, dtype=dtype), gains(source, width, dtype)
    scale = (size * (0.5 + torch.rand(width, generator=source))).float()
    offset = torch.randint(-20, 20, (width,), generator=source).to(torch.int32)
    y, rstd = npu.npu_rms_norm_quant_v2(
        x, gamma, scale, offset=offset, epsilon=0.5, div_mode=divide
    )
    values = norm64(x, gamma, 0.5)
    slack = rounding_slack(values, scale, divide) if dtype == torch.float16 else 0.0
    nearest = bound("npu_rms_norm_quant_v2", "y", dtype)
    assert lsb_distance(y, quantized64(values, scale, offset, divide)) <= nearest + slack
    assert rstd.shape == (rows, 1)
    assert npu.npu_rms_norm_quant_v2(x, gamma, scale)[0].dtype == torch.int8


def test_all_zero_rows_have_scale_zero_and_no_nan():
    x, gamma = torch.zeros(2, 8).half(), torch.ones(8).half()
    y, _, _, scale, _ = npu.npu_add_rms_norm_dynamic_quant(x, x, gamma)
    assert not y.any()
    assert scale.tolist() == [0.0, 0.0]
