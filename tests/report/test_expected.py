"""What `expect` counts: each fusion under one name, whoever made it and however it is spelled."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ascend_passes import explain, npu
from ascend_passes.report.expected import FORMS, reached
from ascend_passes.report.value import Report

ROWS = (torch.randn(4, 64).half(), torch.randn(4, 64).half(), torch.ones(64).half())


def dynamic(x, r, w):
    """Rows quantized by a scale of their own, behind a norm."""
    return npu.npu_dynamic_quant(functional.rms_norm(x + r, (64,), w, 1e-6))


def ready(x, r, w):
    """What somebody else has fused already."""
    scale, zero = torch.ones(64).half(), torch.zeros(64, dtype=torch.int32)
    return npu.npu_add_rms_norm_quant(x, r, w, scale, zero)[0], dynamic(x, r, w)


@pytest.mark.parametrize(("model", "count"), [(dynamic, 1), (ready, 2)])
def test_every_form_of_the_fusion_counts_under_one_name(model, count):
    name = "add_rms_norm_quant"
    report = explain(model, *ROWS, options={"expect": {name: count}})
    assert reached(report, name) == count and name not in report.fired
    with pytest.raises(Exception, match=f"{name} fired {count} times, expected {count + 1}"):
        explain(model, *ROWS, options={"expect": {name: count + 1}})


def test_rotations_of_both_packages_have_one_name():
    fired = {"C_rotary_embedding": 2, "vllm_npu_rotary_embedding": 3, "rotary_mul": 7}
    assert reached(Report(fired=fired), "rotary_embedding") == 5
    assert reached(Report(fired=fired), "rotary_mul") == 7
    assert reached(Report(spellings={"rms_norm[x]": 1}), "rms_norm[x]") == 1


def test_families_name_what_reports_count_and_operators_that_there_are():
    operators = {operator.qualified_name for operator in npu.OPERATORS.values()}
    for forms in FORMS.values():
        known_here = {one for one in forms.operators if not one.startswith("vllm::")}
        assert known_here <= operators
        assert forms.counts
        explain(dynamic, *ROWS, options={"expect": dict.fromkeys(forms.counts, 0)})


def test_strict_lets_be_what_no_operator_could_have_taken():
    def cycle(x, r, w):
        total = x + r
        return npu.npu_rms_norm(total, w + total.sum(0), 1e-6)[0], total

    report = explain(cycle, *ROWS, options={"strict": True})
    assert [miss for miss in report.misses if miss.complete and "an input depends" in miss.reason]


class Shared(torch.nn.Module):
    """The norm's inner value has another user, which whoever writes the model can mend."""

    def forward(self, x, r, w):
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return w * (x.float() * scale).half(), scale


def test_strict_refuses_what_an_operator_could_have_taken():
    with pytest.raises(Exception, match=r"rms_norm at .*rsqrt has 2 users"):
        explain(Shared(), *ROWS, options={"strict": True})
