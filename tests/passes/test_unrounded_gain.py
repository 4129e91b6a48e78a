"""One plus a weight is rounded in front of a quantize and nowhere else."""

from __future__ import annotations

import pytest
import torch

import ascend_passes
from ascend_passes import npu

INT8 = 1  # torch's number for the dtype
H = 64


def gemma(x, gamma):
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (wide * (1.0 + gamma.float())).to(x.dtype)


def plain(x, residual, gamma, scale):
    total = x + residual
    return gemma(total, gamma), total


def static(x, residual, gamma, scale):
    total = x + residual
    return npu.npu_quantize(gemma(total, gamma), scale, None, INT8, -1, True), total


def dynamic(x, residual, gamma, scale):
    total = x + residual
    return *npu.npu_dynamic_quant(gemma(total, gamma)), total


def theirs(x, residual, gamma, scale):
    """A model that calls the operator itself."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma + 1, 1e-6)
    return y, total


def compiled(function, inputs):
    torch._dynamo.reset()
    ascend_passes.reset()
    with torch.no_grad():
        results = torch.compile(function, backend="ascend_dense", fullgraph=True)(*inputs)
    (report,) = ascend_passes.reports()
    assert not report.errors
    return results, report


def inputs_of(dtype):
    source = torch.Generator().manual_seed(torch.seed() % 2**31)
    shapes = ((3, 5, H), (3, 5, H), (H,), (1,))
    x, residual, gamma, scale = (torch.randn(shape, generator=source) for shape in shapes)
    return [t.to(dtype) for t in (x, residual, gamma * 8, scale.abs() + 0.1)]


@pytest.mark.parametrize(
    ("function", "dtype", "split", "operator"),
    [
        (plain, torch.bfloat16, True, "npu_gemma_rms_norm."),
        (plain, torch.float16, True, "npu_gemma_rms_norm."),
        (plain, torch.float32, False, "npu_add_rms_norm."),
        (static, torch.bfloat16, False, "npu_add_rms_norm_quant."),
        (dynamic, torch.bfloat16, False, "npu_add_rms_norm_dynamic_quant."),
        (theirs, torch.bfloat16, None, "npu_add_rms_norm."),
    ],
)
def test_where_the_gain_is_rounded(function, dtype, split, operator):
    inputs = inputs_of(dtype)
    _, report = compiled(function, inputs)
    assert report.fired.get("unrounded_gain", 0) == (split is True)
    assert report.fired.get("add_gemma_rms_norm", 0) == (split is not None)
    assert report.graph_after.count("npu.npu_") == 1 and operator in report.graph_after


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_row_that_stays_is_rounded_once(dtype):
    x, residual, gamma, scale = inputs_of(dtype)
    (y, total), _ = compiled(plain, (x, residual, gamma, scale))
    assert torch.equal(total, x + residual)
    exact = (x + residual).double()
    exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-6)
    exact = exact * (1 + gamma.double())
    kind = torch.finfo(dtype)
    step = torch.ldexp(torch.ones_like(exact), torch.frexp(exact).exponent - 1)
    ulp = step.clamp(min=kind.smallest_normal) * kind.eps
    assert ((y.double() - exact).abs() / ulp).max() <= 0.51
