"""The compiled model against eager and float64, and what the comparison does not let through."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

from ascend_passes.cli.run import agreement
from ascend_passes.ir import trace
from ascend_passes.models.build import FAMILIES, small_model
from ascend_passes.models.compare import Comparison, Error, compare
from ascend_passes.models.exact import exact_forward
from ascend_passes.models.generate import logits_of, new_cache, step_inputs
from ascend_passes.models.limits import EXACT, limit_of
from ascend_passes.models.quantize import quantize_model
from ascend_passes.models.reference import reference_logits

SMALLEST = {"num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 128}
PROMPT, TOKENS = 12, 3
KINDS = {
    "float32": (torch.float32, None, "add_rms_norm"),
    "bfloat16": (torch.bfloat16, None, "add_rms_norm"),
    "w8a8-static": (torch.bfloat16, "static", "add_rms_norm_quant"),
    "w8a8-dynamic": (torch.bfloat16, "dynamic", "add_rms_norm_dynamic_quant"),
}
"""Dtype, how activations are quantized, and the rule whose fusion is at stake."""


def token_ids(count, seed=0):
    return torch.randint(512, (1, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model_of():
    """kind -> a small Qwen3 whose norms have gains of their own; made once."""
    made = {}

    def model(kind):
        dtype, activations, _ = KINDS[kind]
        if kind not in made:
            made[kind] = small_model("qwen3", dtype, **SMALLEST)
            source = torch.Generator().manual_seed(2)
            for parameter in made[kind].parameters():
                if parameter.dim() == 1:
                    parameter.data.add_(torch.rand(parameter.shape, generator=source))
            if activations is not None:
                quantize_model(made[kind], activations, token_ids(64, seed=1))
        return made[kind]

    return model


def compared(model, compiled) -> Comparison:
    torch._dynamo.reset()
    forward = torch.compile(compiled, backend="ascend_dense")
    exact = exact_forward(compiled, {})
    return compare(model, forward, exact, token_ids(PROMPT), TOKENS, lambda *_: None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_is_as_good_as_eager(model_of, kind):
    dtype, activations, rule = KINDS[kind]
    result = compared(model_of(kind), model_of(kind))
    assert all(report.fired[rule] > 0 and not report.errors for report in result.reports)
    assert (result.dtype, result.quantized) == (str(dtype)[6:], activations is not None)
    assert result.limit == limit_of(dtype, activations is not None)
    assert result.compiled.relative <= result.limit
    assert result.no_worse
    assert result.exact.relative <= EXACT
    assert result.tokens == TOKENS
    assert kind != "float32" or result.equal_tokens == TOKENS
    assert result.passed


def other_gain(model):
    model.model.norm.weight.data.add_(0.01)


def other_epsilon(model):
    model.model.layers[0].post_attention_layernorm.variance_epsilon = 1e-5


@pytest.mark.parametrize("change", [other_gain, other_epsilon])
def test_a_formula_that_is_slightly_wrong_fails_though_rounding_hides_it(model_of, change):
    model = model_of("w8a8-static")
    wrong = copy.deepcopy(model)
    change(wrong)
    result = compared(model, wrong)
    assert result.exact.relative > 1e5 * EXACT
    assert not result.same_formula
    assert not result.passed
    assert replace(result, exact=Error(0.0, 0.0)).passed  # nothing else would have told


@pytest.mark.parametrize(
    ("filled", "not_finite"),
    [(0.0, ()), (float("nan"), ("eager", "compiled", "float64 reference"))],
    ids=["zero", "nan"],
)
def test_logits_of_zeros_are_right_and_logits_of_nan_are_told(filled, not_finite):
    model = small_model("qwen3", torch.float32, **SMALLEST)
    torch.nn.init.constant_(model.lm_head.weight, filled)
    result = compared(model, model)
    assert result.not_finite == not_finite
    assert result.passed is (not not_finite)
    *told, verdict = agreement(result)
    assert verdict == ("FAILED" if not_finite else "passed")
    assert any("check its weights" in line for line in told) is bool(not_finite)


WRONG_RULE = """
from typing import Annotated
from torch import Tensor
from torch.nn.functional import silu
from ascend_passes import Rule

Rows = Annotated[Tensor, "... H"]

def pattern(gate: Rows, up: Rows):
    return silu(gate) * up

def replacement(gate: Tensor, up: Tensor):
    return silu(gate) * 1.0001 * up

rule = Rule(pattern, replacement, examples=[{"H": 16}])
"""


def test_a_wrong_rule_is_told_from_rounding(model_of, tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG_RULE)
    model, prompt, following = model_of("bfloat16"), token_ids(PROMPT), token_ids(1, seed=3)
    reference = reference_logits(model, prompt, following)
    errors = []
    for rules, validate in (("-*", False), ("-*,+wrong", False), ("-*,+wrong", True)):
        torch._dynamo.reset()
        options = {"rule_path": str(tmp_path), "rules": rules, "validate": validate}
        cache = new_cache(model, 1, PROMPT + 1)
        logits = logits_of(exact_forward(model, options), model, cache, prompt, following)
        errors.append(Error.between(logits, reference).relative)
    without, wrong, validated = errors
    assert max(without, validated) <= EXACT < wrong < 1e-3


GOOD = Comparison(
    dtype="bfloat16",
    quantized=False,
    eager_tokens=((1, 2, 3), (4, 5, 6)),
    compiled_tokens=((1, 2, 3), (4, 0, 6)),
    eager=Error(0.2, 0.01),
    compiled=Error(0.2, 0.0109),
    exact=Error(1e-12, 1e-14),
    limit=0.05,
    compile_seconds=1.0,
    reports=(),
)
FEW_FAR = Error(0.2, 0.04, 0.01)
"""Of tokens that went to other experts."""
EQUAL = {"compiled_tokens": GOOD.eager_tokens}


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"exact": Error(1e-3, 1e-4)}, False),
        ({"compiled": Error(0.2, 0.0111)}, False),
        ({"compiled": Error(0.2, 0.051), "eager": Error(0.2, 0.05)}, False),
        ({"compiled": Error(0.2, float("nan"))}, False),
        ({"exact": Error(0.2, float("nan"))}, False),
        ({"not_finite": ("compiled",)}, False),
        ({"dtype": "float32"}, False),
        ({"dtype": "float32", **EQUAL}, True),
        ({"dtype": "float32", "compiled": Error(0.2, 0.04), **EQUAL}, True),
        ({"dtype": "float32", "quantized": True, "compiled": Error(0.2, 0.04)}, True),
        ({"dtype": "float32", "quantized": True, "compiled": Error(0.2, 0.06)}, False),
        ({"routed": True, "compiled": Error(0.2, 0.06, 0.01), "eager": FEW_FAR}, True),
        ({"routed": True, "compiled": Error(0.2, 0.04, 0.02), "eager": FEW_FAR}, False),
    ],
)
def test_each_demand_alone_decides(changes, passed):
    assert (GOOD.equal_tokens, GOOD.tokens) == (5, 6)
    assert replace(GOOD, **changes).passed is passed
    assert replace(GOOD, **changes).to_dict()["passed"] is passed


def test_limits_lie_above_the_dtypes_rounding_and_below_a_lost_operator():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        eps = torch.finfo(dtype).eps
        assert eps < limit_of(dtype, False) < min(200 * eps, limit_of(dtype, True)) < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_one_graph(family):
    model = small_model(family, **SMALLEST)
    for token, start in ((token_ids(PROMPT), 0), (token_ids(1), PROMPT)):
        inputs = step_inputs(model, token, start, new_cache(model, 1, 16))
        gm = trace.aot_graph(model, **inputs)  # refuses a model that breaks into several
        assert "aten.embedding." in gm.code and "aten.rsqrt." in gm.code
