"""The modules of transformers and torch whose spellings are recognized, as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ascend_passes
from tests.numerics import ulp_distance

TOKENS, WIDTH, HEAD = 5, 64, 32
GAIN = torch.rand(WIDTH, generator=torch.Generator().manual_seed(3)) + 0.5


@torch.no_grad()
def compiled(function, *given):
    """The report of one compilation, and the result."""
    torch._dynamo.reset()
    ascend_passes.reset()
    result = torch.compile(function, backend="ascend_dense")(*given)
    (report,) = ascend_passes.reports()
    assert not report.errors
    return report, result


def rows(*shape):
    source = torch.Generator().manual_seed(4)
    return (torch.randn(*shape, generator=source) + 0.5).to(torch.bfloat16)


def exact_norm(x, gain, eps):
    """RMSNorm in float64."""
    wide = x.double()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * gain


def gpt_oss():
    modeling = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss")
    return modeling.GptOssRMSNorm(WIDTH, eps=1e-5)


def llama4_l2():
    modeling = pytest.importorskip("transformers.models.llama4.modeling_llama4")
    return modeling.Llama4TextL2Norm(eps=1e-5)


def torch_without_gain():
    return nn.RMSNorm(WIDTH, eps=1e-5, elementwise_affine=False)


def torch_with_gain():
    return nn.RMSNorm(WIDTH, eps=1e-5)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (gpt_oss, "rms_norm"),
        (torch_with_gain, "rms_norm"),
        (torch_without_gain, "rms_norm_without_gain"),
        (llama4_l2, "rms_norm_without_gain"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_norms(make, rule):
    module, x = make().to(torch.bfloat16), rows(TOKENS, WIDTH)
    gain = torch.ones(WIDTH).double()
    for parameter in module.parameters():
        parameter.data.copy_(GAIN)
        gain = parameter.data.double()
    report, result = compiled(module, x)
    assert report.fired[rule] == 1, str(report)
    assert "aten.rsqrt" in report.graph_before
    assert "aten.rsqrt" not in report.graph_after
    assert report.graph_after.count("torch.ops") == 1  # ones, too, are made once
    # The operator rounds in front of the gain and behind it: half a unit each.
    assert ulp_distance(result, exact_norm(x, gain, 1e-5)) <= 1.5


@pytest.mark.parametrize("sequences", [1, 2])
def test_llama4_rope(sequences):
    modeling = pytest.importorskip("transformers.models.llama4.modeling_llama4")
    query, key = rows(sequences, TOKENS, 4, HEAD), rows(sequences, TOKENS, 2, HEAD)
    positions = torch.arange(sequences * TOKENS).view(sequences, TOKENS, 1)
    angles = positions * torch.rand(HEAD // 2, generator=torch.Generator().manual_seed(5))
    factor = torch.polar(torch.ones_like(angles), angles)
    report, results = compiled(modeling.apply_rotary_emb, query, key, factor)
    assert report.fired["rotary_mul_interleaved"] == 2, str(report)
    for x, result in zip((query, key), results, strict=True):
        assert_turned(x, result, factor[:, :, None])


def test_rope_of_tokens():
    def turn(x, factor):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * factor[:, None]).flatten(2).type_as(x)

    x = rows(TOKENS, 4, HEAD)
    angles = torch.arange(TOKENS)[:, None] * torch.rand(
        HEAD // 2, generator=torch.Generator().manual_seed(5)
    )
    factor = torch.polar(torch.ones_like(angles), angles)
    report, result = compiled(turn, x, factor)
    assert report.fired["rotary_mul_interleaved"] == 1, str(report)
    assert_turned(x, result, factor[:, None])


def assert_turned(x, result, factor):
    """The rotation in float64, to 4 units in the last place at the largest number of a head.

    Half precision rounds the tables, the two products and their sum.
    """
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2).contiguous())
    true = torch.view_as_real(pairs * factor).flatten(-2)
    unit = true.abs().amax(-1, keepdim=True) * 2.0**-7
    assert ((result.double() - true).abs() / unit).max() <= 4
