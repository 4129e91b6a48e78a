"""Each operator of vLLM and vllm-ascend becomes NPU operators that give the same.

vLLM need not be installed: the operators are defined here with vLLM's schemas and written in plain
torch, so that a compiled call can be compared with an eager one.
"""

from __future__ import annotations

import pytest
import torch

import ascend_passes
from ascend_passes.frontends.vllm_translations import TRANSLATIONS
from tests.registered import registered

EPSILON = 1e-5  # no default of any schema
TOKENS, WIDTH, HEAD, HEADS = 5, 64, 16, 4
SCHEMAS = {
    "vllm_ir": (
        "rms_norm(Tensor x, Tensor? weight, float epsilon, int? variance_size=None) -> Tensor",
        "fused_add_rms_norm(Tensor x, Tensor x_residual, Tensor? weight, float epsilon,"
        " int? variance_size=None) -> (Tensor, Tensor)",
    ),
    "_C": (
        "rms_norm(Tensor! out, Tensor input, Tensor? weight, float epsilon) -> ()",
        "fused_add_rms_norm(Tensor! input, Tensor! residual, Tensor? weight, float epsilon) -> ()",
        "silu_and_mul(Tensor! out, Tensor input) -> ()",
        "static_scaled_int8_quant(Tensor! out, Tensor input, Tensor scale, Tensor? azp) -> ()",
        "dynamic_scaled_int8_quant(Tensor! out, Tensor input, Tensor! scale, Tensor!? azp) -> ()",
        "rotary_embedding(Tensor positions, Tensor! query, Tensor!? key, int head_size,"
        " Tensor cos_sin_cache, bool is_neox, int rope_dim_offset=0, bool inverse=False) -> ()",
    ),
    "_C_ascend": (
        "npu_add_rms_norm_bias(Tensor x1, Tensor x2, Tensor gamma, Tensor? beta=None,"
        " float epsilon=1e-6) -> (Tensor y, Tensor rstd, Tensor x)",
    ),
    "vllm": (
        "quantize(Tensor in_tensor, Tensor input_scale, Tensor input_scale_reciprocal,"
        " Tensor input_offset) -> Tensor",
        "npu_rotary_embedding(Tensor positions, Tensor query, Tensor key, Tensor cos_sin_cache,"
        " int head_size, int rotary_dim, bool is_neox_style=True) -> (Tensor, Tensor)",
        "unquantized_gemm(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
    ),
}
"""Namespace -> what vLLM 0.32 and vllm-ascend register there."""


def normed(x, weight, epsilon):
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (wide.to(weight.dtype) * weight).to(x.dtype)


def rounded(values):
    return values.round().clamp(-128, 127).to(torch.int8)


def rotated(x, positions, cache, head, halves, start=0):
    """Rows of [T, heads * D] by the angles of their positions, columns `start` on of each head."""
    cos, sin = cache[positions].float()[:, None].chunk(2, -1)
    heads = x.float().view(x.shape[0], -1, head).clone()
    turned = heads[..., start : start + cache.shape[1]]
    one, two = turned.chunk(2, -1) if halves else (turned[..., ::2], turned[..., 1::2])
    parts = (one * cos - two * sin, two * cos + one * sin)
    whole = torch.cat(parts, -1) if halves else torch.stack(parts, -1).flatten(-2)
    heads[..., start : start + cache.shape[1]] = whole
    return heads.reshape(x.shape).to(x.dtype)


def ir_rms_norm(x, weight, epsilon, variance_size=None):
    return normed(x, weight, epsilon)


def ir_fused_add_rms_norm(x, x_residual, weight, epsilon, variance_size=None):
    total = x + x_residual
    return normed(total, weight, epsilon), total


def own_rms_norm(out, input, weight, epsilon):
    out.copy_(normed(input, weight, epsilon))


def own_fused_add_rms_norm(input, residual, weight, epsilon):
    residual.add_(input)
    input.copy_(normed(residual, weight, epsilon))


def silu_and_mul(out, input):
    gate, up = input.chunk(2, -1)
    out.copy_(torch.nn.functional.silu(gate.float()) * up.float())


def static_quantize(out, input, scale, azp):
    out.copy_(rounded(input.float() / scale))


def dynamic_quantize(out, input, scale, azp):
    scale.copy_(input.float().abs().amax(-1, keepdim=True) / 127)
    out.copy_(rounded(input.float() / scale))


def own_rotary(
    positions, query, key, head_size, cos_sin_cache, is_neox, rope_dim_offset=0, inverse=False
):
    for x in (query, key):
        x.copy_(rotated(x, positions, cos_sin_cache, head_size, is_neox, rope_dim_offset))


def add_rms_norm_bias(x1, x2, gamma, beta=None, epsilon=1e-6):
    total = x1 + x2
    y = normed(total, gamma, epsilon)
    rstd = torch.rsqrt(total.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return (y if beta is None else y + beta), rstd, total


def quantize(in_tensor, input_scale, input_scale_reciprocal, input_offset):
    return rounded(in_tensor.float() * input_scale_reciprocal.float() + input_offset.float())


def ascend_rotary(positions, query, key, cos_sin_cache, head_size, rotary_dim, is_neox_style=True):
    return tuple(
        rotated(x, positions, cos_sin_cache, head_size, is_neox_style) for x in (query, key)
    )


def unquantized_gemm(x, weight, bias=None):
    return torch.nn.functional.linear(x, weight, bias)


KERNELS = {
    "vllm_ir": (ir_rms_norm, ir_fused_add_rms_norm),
    "_C": (
        own_rms_norm,
        own_fused_add_rms_norm,
        silu_and_mul,
        static_quantize,
        dynamic_quantize,
        own_rotary,
    ),
    "_C_ascend": (add_rms_norm_bias,),
    "vllm": (quantize, ascend_rotary, unquantized_gemm),
}


@pytest.fixture(scope="module", autouse=True)
def operators():
    """The operators, for this file alone."""
    with registered(SCHEMAS, KERNELS):
        yield


def made(*shape, scale=1.0):
    source = torch.Generator().manual_seed(sum(shape))
    return (scale * (torch.randn(*shape, generator=source) + 0.5)).to(torch.bfloat16)


def cache(width=HEAD):
    angles = torch.arange(32)[:, None] * torch.rand(width // 2, generator=torch.Generator())
    return torch.cat([angles.cos(), angles.sin()], -1).to(torch.bfloat16)


def positions():
    return torch.tensor([3, 1, 4, 1, 5])


def into_empty(operator, x, *given, shape=None, dtype=None):
    """The result of an operator that writes its first argument."""
    out = x.new_empty(shape or x.shape, dtype=dtype or x.dtype)
    operator(out, x, *given)
    return out


def of_ir_rms_norm(x, weight):
    return torch.ops.vllm_ir.rms_norm(x, weight, EPSILON)


def of_ir_fused_add_rms_norm(x, residual, weight):
    return torch.ops.vllm_ir.fused_add_rms_norm(x, residual, weight, EPSILON)


def of_gemmas_norm(x, weight):
    return torch.ops.vllm_ir.rms_norm(x, weight.float() + 1.0, EPSILON)


def of_gemmas_sum(x, residual, weight):
    return torch.ops.vllm_ir.fused_add_rms_norm(x, residual, weight.float() + 1.0, EPSILON)


def of_rms_norm(x, weight):
    return into_empty(torch.ops._C.rms_norm, x, weight, EPSILON)


def of_fused_add_rms_norm(x, residual, weight):
    x, residual = x * 1.5, residual * 1.5  # its own values, as a layer's results are
    torch.ops._C.fused_add_rms_norm(x, residual, weight, EPSILON)
    return x, residual


def of_silu_and_mul(x):
    return into_empty(torch.ops._C.silu_and_mul, x, shape=(*x.shape[:-1], x.shape[-1] // 2))


def of_static(x, scale):
    return into_empty(torch.ops._C.static_scaled_int8_quant, x, scale, None, dtype=torch.int8)


def of_dynamic(x):
    out, scale = x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[0], 1).float()
    torch.ops._C.dynamic_scaled_int8_quant(out, x, scale, None)
    return out, scale


def of_rotary(query, key, table):
    query, key = query * 1.5, key * 1.5
    torch.ops._C.rotary_embedding(positions(), query, key, HEAD, table, True)
    return query, key


def of_rotary_pairs_of_a_part(query, key, table):
    query, key = query * 1.5, key * 1.5
    torch.ops._C.rotary_embedding(positions(), query, key, HEAD, table, False)
    return query, key


def of_rotary_behind_an_offset(query, key, table):
    query, key = query * 1.5, key * 1.5
    torch.ops._C.rotary_embedding(positions(), query, key, HEAD, table, True, HEAD // 4)
    return query, key


def of_ascend_rotary_of_a_part(query, key, table):
    return torch.ops.vllm.npu_rotary_embedding(
        positions(), query, key, table, HEAD, table.shape[1], True
    )


def of_add_rms_norm_bias(x, residual, weight, bias=None):
    return torch.ops._C_ascend.npu_add_rms_norm_bias(x, residual, weight, bias, EPSILON)


def of_add_rms_norm_bias_defaults(x, residual, weight):
    return torch.ops._C_ascend.npu_add_rms_norm_bias(x, residual, weight)


def of_quantize(x, scale, reciprocal, offset):
    return torch.ops.vllm.quantize(x, scale, reciprocal, offset)


def of_ascend_rotary(query, key, table):
    return torch.ops.vllm.npu_rotary_embedding(positions(), query, key, table, HEAD, HEAD, True)


def of_ascend_rotary_pairs(query, key, table):
    return torch.ops.vllm.npu_rotary_embedding(positions(), query, key, table, HEAD, HEAD, False)


def of_unquantized_gemm(x, weight, bias=None):
    return torch.ops.vllm.unquantized_gemm(x, weight, bias)


ROWS, GAIN, SCALE = (TOKENS, WIDTH), made(WIDTH), torch.full((1,), 2.0**-5)
QUERY_KEY = (made(TOKENS, HEADS * HEAD), made(TOKENS, 2 * HEAD))
CASES = {
    "vllm_ir::rms_norm": [
        (of_ir_rms_norm, (made(*ROWS), GAIN)),
        (of_gemmas_norm, (made(*ROWS), GAIN)),
        (of_ir_rms_norm, (made(*ROWS).float(), GAIN)),
    ],
    "vllm_ir::fused_add_rms_norm": [
        (of_ir_fused_add_rms_norm, (made(*ROWS), made(*ROWS).flip(0), GAIN)),
        (of_gemmas_sum, (made(*ROWS), made(*ROWS).flip(0), GAIN)),
    ],
    "_C::rms_norm": [(of_rms_norm, (made(*ROWS), GAIN))],
    "_C::fused_add_rms_norm": [(of_fused_add_rms_norm, (made(*ROWS), made(*ROWS).flip(0), GAIN))],
    "_C::silu_and_mul": [(of_silu_and_mul, (made(*ROWS),))],
    "_C::static_scaled_int8_quant": [(of_static, (made(*ROWS), SCALE))],
    "_C::dynamic_scaled_int8_quant": [(of_dynamic, (made(*ROWS),))],
    "_C::rotary_embedding": [
        (of_rotary, (*QUERY_KEY, cache())),
        (of_rotary, (*QUERY_KEY, cache(HEAD // 2))),
        (of_rotary_pairs_of_a_part, (*QUERY_KEY, cache(HEAD // 2))),
        (of_rotary_behind_an_offset, (*QUERY_KEY, cache(HEAD // 2))),
    ],
    "_C_ascend::npu_add_rms_norm_bias": [
        (of_add_rms_norm_bias, (made(*ROWS), made(*ROWS).flip(0), GAIN)),
        (of_add_rms_norm_bias, (made(*ROWS), made(*ROWS).flip(0), GAIN, GAIN.flip(0))),
        (of_add_rms_norm_bias_defaults, (made(*ROWS), made(*ROWS).flip(0), GAIN)),
    ],
    "vllm::quantize": [
        (
            of_quantize,
            (made(*ROWS), *(torch.full((WIDTH,), n).bfloat16() for n in (2.0**-5, 32.0, 3.0))),
        )
    ],
    "vllm::npu_rotary_embedding": [
        (of_ascend_rotary, (*QUERY_KEY, cache())),
        (of_ascend_rotary_pairs, (*QUERY_KEY, cache())),
        (of_ascend_rotary_of_a_part, (*QUERY_KEY, cache(HEAD // 2))),
    ],
    "vllm::unquantized_gemm": [
        (of_unquantized_gemm, (made(*ROWS), made(WIDTH, WIDTH))),
        (of_unquantized_gemm, (made(*ROWS), made(2 * WIDTH, WIDTH), made(2 * WIDTH))),
    ],
}
ROWS_AND_SCALES = (made(*ROWS), made(*ROWS).flip(0), GAIN, *CASES["vllm::quantize"][0][1][1:])
"""Rows, their residual, a gain, and a scale with its reciprocal and offset."""
BOUND = {torch.bfloat16: 2.0**-7, torch.int8: 1.0, torch.float32: 2.0**-22}
"""One unit in the last place of bfloat16 at the row's largest number; one LSB; float32 rounding."""


def test_every_translation_has_a_case():
    assert set(CASES) == set(TRANSLATIONS)


@pytest.mark.parametrize(
    ("name", "function", "given"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_a_translation_gives_the_same(name, function, given):
    torch._dynamo.reset()
    ascend_passes.reset()
    with torch.no_grad():
        eager = function(*given)
        compiled = torch.compile(function, backend="ascend_dense")(*given)
    (report,) = ascend_passes.reports()
    assert not report.errors
    assert report.fired[name.replace("::", "_").lstrip("_")] == 1, str(report)
    assert name.replace("::", ".") not in report.graph_after
    pairs = zip(*((r,) if torch.is_tensor(r) else r for r in (eager, compiled)), strict=True)
    for one, other in pairs:
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        whole = one.dtype == torch.int8
        largest = 1.0 if whole else one.abs().amax(-1, keepdim=True).double()
        # A weight narrower than the rows rounds the rows as well.
        rows = one.dtype == given[0].dtype
        bound = max(BOUND[t.dtype] for t in given) if rows else BOUND[one.dtype]
        assert ((one.double() - other.double()).abs() <= bound * largest).all()


def report_of(function, given):
    """What became of a function of tensors."""
    torch._dynamo.reset()
    ascend_passes.reset()
    with torch.no_grad():
        torch.compile(function, backend="ascend_dense")(*given)
    (report,) = ascend_passes.reports()
    return report


def test_gemmas_norm_behind_a_sum_becomes_its_operator():
    report = report_of(*CASES["vllm_ir::fused_add_rms_norm"][1])
    assert "torch.ops.npu.npu_gemma_rms_norm" in report.graph_after, report.graph_after


def test_gemmas_norm_in_front_of_a_quantize_is_one_kernel():
    def layer(x, residual, weight, scale, reciprocal, offset):
        y, total = of_gemmas_sum(x, residual, weight)
        return torch.ops.vllm.quantize(y, scale, reciprocal, offset), total

    report = report_of(layer, ROWS_AND_SCALES)
    assert report.fired["add_rms_norm_quant"] == 1, str(report)


def another_width(query, key, table):
    return torch.ops.vllm.npu_rotary_embedding(
        positions(), query, key, table, HEAD, HEAD // 2, True
    )


def asymmetric(x, scale):
    zero = torch.zeros(1, dtype=torch.int32)
    return into_empty(torch.ops._C.static_scaled_int8_quant, x, scale, zero, dtype=torch.int8)


@pytest.mark.parametrize(
    ("function", "given", "reason"),
    [
        (another_width, (*QUERY_KEY, cache()), "its cache is for 16 columns of each head"),
        (asymmetric, (made(*ROWS), SCALE), "asymmetric"),
    ],
)
def test_what_has_no_npu_operator_stays(function, given, reason):
    torch._dynamo.reset()
    ascend_passes.reset()
    with torch.no_grad():
        eager = function(*given)
        compiled = torch.compile(function, backend="ascend_dense")(*given)
    (report,) = ascend_passes.reports()
    assert reason in "; ".join(miss.reason for miss in report.misses)
    torch.testing.assert_close(compiled, eager, rtol=0, atol=0)


def test_vllm_ascends_norm_and_quantize_become_one_kernel():
    def layer(x, residual, weight, scale, reciprocal, offset):
        y, _, total = torch.ops._C_ascend.npu_add_rms_norm_bias(x, residual, weight, None, EPSILON)
        return torch.ops.vllm.quantize(y, scale, reciprocal, offset), total

    report = report_of(layer, ROWS_AND_SCALES)
    assert report.spellings["add_rms_norm_quant[zero,reciprocal]"] == 1, str(report)
    assert report.graph_after.count("torch.ops.npu.") == 1
