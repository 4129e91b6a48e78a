"""int8 has no NaN: a stored scale hides it, unless `keep_nan`; a row's own scale keeps it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

import ascend_passes

H = 64


def normed(x, gamma):
    wide = x.float()
    return gamma * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def projected(rows, weight, channels):
    return linear(rows, weight.to(channels.dtype) * channels)


def static(x, residual, gamma, scale, weight, channels):
    rows = normed(x + residual, gamma)
    rows = torch.round(torch.clamp(rows / scale, -128.0, 127.0)) * scale
    return projected(rows, weight, channels)


def dynamic(x, residual, gamma, scale, weight, channels):
    rows = normed(x + residual, gamma)
    largest = rows.float().abs().amax(-1, keepdim=True) / 127
    step = torch.where(largest == 0, 1.0, largest)
    rows = (torch.round(torch.clamp(rows / step, -128.0, 127.0)) * step).to(x.dtype)
    return projected(rows, weight, channels)


def inputs_of(wrong):
    source = torch.Generator().manual_seed(3)
    x, residual = (torch.randn(1, 4, H, generator=source).bfloat16() for _ in range(2))
    x[0, 1, 7] = wrong
    gamma, scale = torch.rand(H, generator=source).bfloat16(), torch.tensor([0.02]).bfloat16()
    weight = torch.randint(-128, 128, (32, H), generator=source, dtype=torch.int8)
    return x, residual, gamma, scale, weight, torch.rand(32, 1, generator=source).bfloat16()


def compiled(function, inputs, **options):
    torch._dynamo.reset()
    ascend_passes.reset()
    with torch.no_grad():
        rows = torch.compile(function, backend="ascend_dense", options=options)(*inputs)
    (report,) = ascend_passes.reports()
    return rows, report.fired


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_nan_is_hidden_by_a_stored_scale_and_shown_under_keep_nan(wrong):
    inputs = inputs_of(wrong)
    eager = static(*inputs)
    assert eager.isnan().nonzero()[:, 1].unique().tolist() == [1]
    hidden, fired = compiled(static, inputs)
    assert fired["add_rms_norm_quant"] == fired["quant_matmul_static"] == 1
    assert not hidden.isnan().any()
    shown, fired = compiled(static, inputs, keep_nan=True)
    assert torch.equal(shown.isnan(), eager.isnan())
    assert fired["add_rms_norm"] == 1 and not any("quant" in name for name in fired)


def test_a_row_scale_keeps_a_nan_with_all_its_fusions():
    inputs = inputs_of(float("nan"))
    for options in ({}, {"keep_nan": True}):
        rows, fired = compiled(dynamic, inputs, **options)
        assert fired["add_rms_norm_dynamic_quant"] == fired["quant_matmul_dynamic"] == 1
        assert torch.equal(rows.isnan(), dynamic(*inputs).isnan())


def test_the_environment_sets_it(monkeypatch):
    monkeypatch.setenv("ASCEND_PASSES_KEEP_NAN", "1")
    assert compiled(static, inputs_of(float("nan")))[0].isnan().any()
