"""AddRMSNormQuant in every form that the operators allow; where they do not, the miss names it."""

from __future__ import annotations

from typing import Annotated

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from ascend_passes import Rule, npu
from ascend_passes.engine.bind import WrongDtype
from ascend_passes.engine.match import match
from ascend_passes.engine.misses import worth_telling
from ascend_passes.engine.template import outline
from ascend_passes.ir.graph import Context
from ascend_passes.passes.deduplicate import deduplicate
from ascend_passes.report.value import Miss, Place
from tests.graphs import reasons, recognized_and_fused, traced

INT8 = 1  # torch's number for the dtype
EPSILON = 1e-6
HALF, FLOAT = torch.bfloat16, torch.float32
H = 64
Rows = Annotated[Tensor, "... H"]


def tensors(**given):
    """Inputs of the sizes that a name stands for, in a dtype each."""
    shapes = {"x": (5, H), "residual": (5, H), "gamma": (H,), "bias": (H,), "smooth": (H,)}
    made = []
    for index, (name, dtype) in enumerate(given.items()):
        source = torch.Generator().manual_seed(index)
        tensor = torch.rand(shapes.get(name, (1,)), generator=source) + 0.5
        made.append(tensor.to(dtype))
    return made


def normed(x, residual, gamma):
    """RMSNorm of a sum as Hugging Face writes it."""
    wide = (x + residual).float()
    return gamma * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)).to(x.dtype)


def alone(x, gamma):
    wide = x.float()
    return gamma * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)).to(x.dtype)


def gemma(x, gamma):
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    return (wide * (1.0 + gamma.float())).to(x.dtype)


def static(y, scale, zero=None, divide=True):
    return npu.npu_quantize(y, scale, zero, INT8, -1, divide)


VARIANTS = {
    "add_rms_norm_quant": (
        lambda x, residual, gamma, scale: static(normed(x, residual, gamma), scale),
        dict.fromkeys(("x", "residual", "gamma", "scale"), HALF),
    ),
    "add_rms_norm_quant[zero]": (
        lambda x, residual, gamma, scale, zero: static(normed(x, residual, gamma), scale, zero),
        dict.fromkeys(("x", "residual", "gamma", "scale", "zero"), HALF),
    ),
    "add_rms_norm_quant[Wide]": (
        lambda x, residual, gamma, scale: static(normed(x, residual, gamma), scale),
        {**dict.fromkeys(("x", "residual", "gamma"), torch.float16), "scale": FLOAT},
    ),
    "add_rms_norm_quant[Wide,zero]": (
        lambda x, residual, gamma, scale, zero: static(normed(x, residual, gamma), scale, zero),
        {
            **dict.fromkeys(("x", "residual", "gamma"), torch.float16),
            "scale": FLOAT,
            "zero": torch.int32,
        },
    ),
    "add_rms_norm_quant[bias]": (
        lambda x, residual, gamma, bias, scale: static(normed(x, residual, gamma) + bias, scale),
        dict.fromkeys(("x", "residual", "gamma", "bias", "scale"), HALF),
    ),
    "add_rms_norm_quant[zero,bias]": (
        lambda x, residual, gamma, bias, scale, zero: static(
            normed(x, residual, gamma) + bias, scale, zero
        ),
        dict.fromkeys(("x", "residual", "gamma", "bias", "scale", "zero"), HALF),
    ),
    "add_rms_norm_quant[reciprocal]": (
        lambda x, residual, gamma, scale: static(normed(x, residual, gamma), scale, divide=False),
        dict.fromkeys(("x", "residual", "gamma", "scale"), torch.float16),
    ),
    "add_rms_norm_quant[zero,reciprocal]": (
        lambda x, residual, gamma, scale, zero: static(
            normed(x, residual, gamma), scale, zero, divide=False
        ),
        dict.fromkeys(("x", "residual", "gamma", "scale", "zero"), HALF),
    ),
    "add_rms_norm_quant[bias,reciprocal]": (
        lambda x, residual, gamma, bias, scale: static(
            normed(x, residual, gamma) + bias, scale, divide=False
        ),
        dict.fromkeys(("x", "residual", "gamma", "bias", "scale"), HALF),
    ),
    "add_rms_norm_quant[bias,scale2]": (
        lambda x, residual, gamma, bias, one, two: [
            static(normed(x, residual, gamma) + bias, scale) for scale in (one, two)
        ],
        dict.fromkeys(("x", "residual", "gamma", "bias", "one", "two"), HALF),
    ),
    "add_rms_norm_quant[scale2,reciprocal]": (
        lambda x, residual, gamma, one, two: [
            static(normed(x, residual, gamma), scale, divide=False) for scale in (one, two)
        ],
        dict.fromkeys(("x", "residual", "gamma", "one", "two"), HALF),
    ),
    "add_rms_norm_dynamic_quant[smooth]": (
        lambda x, residual, gamma, smooth: npu.npu_dynamic_quant(
            normed(x, residual, gamma), smooth_scales=smooth
        ),
        dict.fromkeys(("x", "residual", "gamma", "smooth"), HALF),
    ),
    "add_rms_norm_dynamic_quant[bias,smooth]": (
        lambda x, residual, gamma, bias, smooth: npu.npu_dynamic_quant(
            normed(x, residual, gamma) + bias, smooth_scales=smooth
        ),
        dict.fromkeys(("x", "residual", "gamma", "bias", "smooth"), HALF),
    ),
    "rms_norm_quant[reciprocal]": (
        lambda x, gamma, scale: static(alone(x, gamma), scale, divide=False),
        dict.fromkeys(("x", "gamma", "scale"), HALF),
    ),
    "rms_norm_quant[bias,reciprocal]": (
        lambda x, gamma, scale, bias: static(alone(x, gamma) + bias, scale, divide=False),
        dict.fromkeys(("x", "gamma", "scale", "bias"), HALF),
    ),
    "rms_norm_quant[gemma]": (
        lambda x, gamma, scale: static(gemma(x, gamma), scale),
        dict.fromkeys(("x", "gamma", "scale"), HALF),
    ),
}
"""Spelling -> a model's lines, and its inputs."""


def optimized(function, given):
    """The graph after every rule, deduplicated as the pipeline does, and the report."""
    gm = traced(function, tensors(**given))
    deduplicate(gm.graph, Context())
    report = recognized_and_fused(gm.graph)
    gm.recompile()
    return gm, report


def kernels(gm):
    """The NPU operators and the sums that are left, without the work on parameters."""
    names = [str(node.target) for node in gm.graph.nodes if node.op == "call_function"]
    return [name for name in names if name.startswith("npu.") or name == "aten.rsqrt.default"]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_one_kernel(name):
    function, given = VARIANTS[name]
    gm, report = optimized(function, given)
    assert report.spellings[name] == report.fired[name.split("[")[0]] == 1, str(report)
    assert len(kernels(gm)) == 1, kernels(gm)


def three(x, residual, gamma, one, two, more):
    y = normed(x, residual, gamma)
    return [static(y, scale) for scale in (one, two, more)]


def both(x, residual, gamma, scale):
    y = normed(x, residual, gamma)
    return static(y, scale), y * 2


def both_dynamic(x, residual, gamma):
    y = normed(x, residual, gamma)
    return *npu.npu_dynamic_quant(y), y * 2


def first_twice(x, gamma, one, two):
    y = alone(x, gamma)
    return static(y, one), static(y, two)


def float_gain(x, residual, gamma):
    wide = (x + residual).float()
    normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    return (gamma * normalized).to(x.dtype)


THREE = ("x", "residual", "gamma")
MISSES = {
    "three scales": (
        three,
        dict.fromkeys((*THREE, "one", "two", "more"), HALF),
        "add_rms_norm_quant",
        "npu_add_rms_norm_quant gives two quantized rows at most and no plain one: "
        "result 0 of npu_add_rms_norm has 3 users, 1 outside the pattern: npu_quantize",
    ),
    "quantized and plain": (
        both,
        dict.fromkeys((*THREE, "scale"), HALF),
        "add_rms_norm_quant",
        "npu_add_rms_norm_quant gives two quantized rows at most and no plain one: "
        "result 0 of npu_add_rms_norm has 2 users, 1 outside the pattern: mul",
    ),
    "dynamic and plain": (
        both_dynamic,
        dict.fromkeys(THREE, HALF),
        "add_rms_norm_dynamic_quant",
        "npu_add_rms_norm_dynamic_quant gives no plain row: "
        "result 0 of npu_add_rms_norm has 2 users, 1 outside the pattern: mul",
    ),
    "first norm with two scales": (
        first_twice,
        dict.fromkeys(("x", "gamma", "one", "two"), HALF),
        "rms_norm_quant",
        "npu_rms_norm_quant gives one quantized row and no plain one: "
        "result 0 of npu_rms_norm has 2 users, 1 outside the pattern: npu_quantize",
    ),
    "float32 gain": (
        float_gain,
        {"x": HALF, "residual": HALF, "gamma": FLOAT},
        "add_rms_norm",
        "npu_add_rms_norm: gamma is float32 but must be bfloat16",
    ),
    "float32 scale beside bfloat16": (
        VARIANTS["add_rms_norm_quant"][0],
        {**dict.fromkeys(THREE, HALF), "scale": FLOAT},
        "add_rms_norm_quant",
        "npu_add_rms_norm_quant: scales1 is float32 but must be bfloat16",
    ),
}


@pytest.mark.parametrize("case", MISSES)
def test_a_miss_names_the_limit_of_the_operator(case):
    function, given, rule, reason = MISSES[case]
    _, report = optimized(function, given)
    assert rule not in report.fired
    told = {(miss.rule, miss.reason) for miss in report.misses if miss.complete}
    assert (rule, reason) in told, reasons(report)


def gated(gate: Rows, up: Rows):
    return silu(gate) * up


def gated_by_operator(gate, up):
    return npu.npu_swiglu(torch.cat([gate, up], -1), -1)


def test_a_template_for_another_dtype_speaks_last():
    """However far it came: whether its dtype is right, only the other templates can tell."""
    rule = Rule(gated, gated_by_operator, examples=[{"H": H}], name="gated")
    gm = traced(lambda x, residual: silu(x) * residual, tensors(x=HALF, residual=HALF))
    product = gm.graph.output_node().args[0]
    stop = match(outline(rule, rule.spellings[0], FLOAT, "cpu"), product, loose=True)
    assert isinstance(stop.reason, WrongDtype), stop
    far = Miss("rms_norm", "mul", Place(), stop.reason, depth=5)
    near = Miss("rms_norm", "mul", Place(), "literal 3 is not 2 in pow", depth=3)
    assert worth_telling([far, near]) == [near]
    assert worth_telling([far]) == [far]
