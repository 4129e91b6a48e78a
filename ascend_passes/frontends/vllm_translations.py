"""What each operator of vLLM and vllm-ascend means in NPU operators; one function for each.

A table of names is enough, because each operator has one meaning, and vLLM need not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import fx

from ascend_passes.engine.site import Arguments, Site, Translation, refuse_unless
from ascend_passes.ir.graph import value
from ascend_passes.passes.rope.cached_rotation import rotary_embedding

aten = torch.ops.aten
INT8 = 1
"""torch's ScalarType code of int8, as NPU operators take it."""
EPSILON = 1e-6
"""What `npu_add_rms_norm_bias` takes where the call leaves it out."""


def translated_rms_norm(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`vllm_ir::rms_norm(x, weight, epsilon, variance_size)`; [..., H] and [H] give [..., H]."""
    return {"0": normed(site, given["x"], given)}


def fused_add_rms_norm(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`vllm_ir::fused_add_rms_norm(x, x_residual, ...)`: the norm of the sum, and the sum."""
    total = site.call(aten.add.Tensor, given["x"], given["x_residual"])
    return {"0": normed(site, total, given), "1": total}


def normed(site: Site, x: fx.Node, given: Arguments) -> fx.Node:
    """`npu_rms_norm` of x under vLLM's other arguments."""
    refuse_unless(given.get("weight") is not None, "the norm has no weight, npu_rms_norm needs one")
    refuse_unless(given.get("variance_size") is None, "the variance is of a part of each row only")
    if value(given["weight"]).dtype != value(x).dtype:
        return spelled_out(site, x, given["weight"], given["epsilon"])
    norm = site.npu("npu_rms_norm", input=x, gamma=given["weight"], epsilon=given["epsilon"])
    return site.item(norm, 0)


def spelled_out(site: Site, x: fx.Node, weight: fx.Node, epsilon: float) -> fx.Node:
    """The definition of `vllm_ir::rms_norm`, for a weight of another dtype than the rows, such as
    Gemma's float32 sum of one and a weight: `recognize` knows whose norm that is."""
    wide = site.call(aten._to_copy.default, x, dtype=torch.float32)
    square = site.call(aten.pow.Tensor_Scalar, wide, 2)
    mean = site.call(aten.mean.dim, square, [-1], True)
    root = site.call(aten.rsqrt.default, site.call(aten.add.Tensor, mean, epsilon))
    unit = site.call(aten.mul.Tensor, wide, root)
    if value(weight).dtype != torch.float32:
        unit = site.call(aten._to_copy.default, unit, dtype=value(weight).dtype)
    result = site.call(aten.mul.Tensor, unit, weight)
    if value(result).dtype == value(x).dtype:
        return result
    return site.call(aten._to_copy.default, result, dtype=value(x).dtype)


def own_rms_norm(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`_C::rms_norm(out!, input, weight, epsilon)`; [..., H] and [H]."""
    return {"out": normed(site, given["input"], given)}


def own_fused_add_rms_norm(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`_C::fused_add_rms_norm(input!, residual!, weight, epsilon)`: norm of the sum, and sum."""
    total = site.call(aten.add.Tensor, given["input"], given["residual"])
    return {"input": normed(site, total, given), "residual": total}


def add_rms_norm_bias(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`_C_ascend::npu_add_rms_norm_bias(x1, x2, gamma, beta, epsilon)`: (y, rstd, sum)."""
    total = site.call(aten.add.Tensor, given["x1"], given["x2"])
    epsilon = given.get("epsilon", EPSILON)
    norm = site.npu("npu_rms_norm", input=total, gamma=given["gamma"], epsilon=epsilon)
    y, beta = site.item(norm, 0), given.get("beta")
    if beta is not None:
        y = site.call(aten.add.Tensor, y, beta)
    return {"0": y, "1": site.item(norm, 1), "2": total}


def silu_and_mul(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`_C::silu_and_mul(out!, input)`; [..., 2 * I] gives [..., I]."""
    return {"out": site.npu("npu_swiglu", input=given["input"], dim=-1)}


def unquantized_gemm(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`vllm::unquantized_gemm(x, weight, bias)` of vllm-ascend: [T, K] and [N, K] give [T, N]."""
    refuse_unless(value(given["x"]).dim() == 2, "its rows have more than one dimension")
    turned = site.call(aten.permute.default, given["weight"], [1, 0])
    if given.get("bias") is None:
        return {"0": site.call(aten.mm.default, given["x"], turned)}
    return {"0": site.call(aten.addmm.default, given["bias"], given["x"], turned)}


def translated_quantize(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`vllm::quantize(in_tensor, scale, scale_reciprocal, offset)` of vllm-ascend.

    Its kernel multiplies by the reciprocal and adds the offset; the scale is there for fusions that
    divide. The two are rounded apart, so the reciprocal is what keeps the result.
    """
    x, _, reciprocal, offset = given.values()
    quantized = site.npu(
        "npu_quantize",
        input=x,
        scales=reciprocal,
        zero_points=offset,
        dtype=INT8,
        axis=-1,
        div_mode=False,
    )
    return {"0": quantized}


def static_quantize(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`_C::static_scaled_int8_quant(out!, input, scale, azp)`: round(input / scale)."""
    refuse_unless(given.get("azp") is None, "the static quantization is asymmetric")
    scale = given["scale"]
    if value(scale).dim() == 0:
        scale = site.call(aten.view.default, scale, [1])
    if value(given["input"]).dtype == torch.bfloat16 and value(scale).dtype == torch.float32:
        # The fused operators want bfloat16 beside bfloat16. vLLM widens what checkpoints store in
        # the model's dtype: then this is exact; any other scale moves a value by 1/4 LSB at most.
        scale = site.call(aten._to_copy.default, scale, dtype=torch.bfloat16)
    quantized = site.npu(
        "npu_quantize", input=given["input"], scales=scale, zero_points=None, dtype=INT8, axis=-1
    )
    return {"out": quantized}


def dynamic_quantize(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`_C::dynamic_scaled_int8_quant(out!, input, scale!, azp!)`: one scale a row, [N, 1]."""
    refuse_unless(given.get("azp") is None, "the dynamic quantization is asymmetric")
    both = site.npu("npu_dynamic_quant", input=given["input"])
    scale = site.call(aten.unsqueeze.default, site.item(both, 1), -1)
    return {"out": site.item(both, 0), "scale": scale}


def ascend_rotary_embedding(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`vllm::npu_rotary_embedding(positions, query, key, cos_sin_cache, head_size, ...)`.

    vllm-ascend's functional form of `_C::rotary_embedding`.
    """
    width = value(given["cos_sin_cache"]).shape[1]
    refuse_unless(width == given["rotary_dim"], f"its cache is for {width} columns of each head")
    rotated = rotary_embedding(site, {**given, "is_neox": given.get("is_neox_style", True)})
    return {"0": rotated["query"], "1": rotated["key"]}


TRANSLATIONS: Mapping[str, Translation] = MappingProxyType(
    {
        "vllm_ir::rms_norm": translated_rms_norm,
        "vllm_ir::fused_add_rms_norm": fused_add_rms_norm,
        "_C::rms_norm": own_rms_norm,
        "_C::fused_add_rms_norm": own_fused_add_rms_norm,
        "_C_ascend::npu_add_rms_norm_bias": add_rms_norm_bias,
        "_C::silu_and_mul": silu_and_mul,
        "vllm::quantize": translated_quantize,
        "vllm::unquantized_gemm": unquantized_gemm,
        "_C::static_scaled_int8_quant": static_quantize,
        "_C::dynamic_scaled_int8_quant": dynamic_quantize,
        "_C::rotary_embedding": rotary_embedding,
        "vllm::npu_rotary_embedding": ascend_rotary_embedding,
    }
)
