"""The NPU's and torch.ao's operators as formulas in float64, written from their documentation.

They share no code with the operators of the package: they judge them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

FLOAT_BIAS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def to_int8(values: Tensor) -> Tensor:
    """Rounded half to even, clamped."""
    return torch.nan_to_num(values.round().clamp(-128, 127), nan=0.0).to(torch.int8)


def norm(x: Tensor, gain: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Normalised rows times a gain, and one over the root of the mean square."""
    inverse = 1 / (x.double().square().mean(-1, keepdim=True) + epsilon).sqrt()
    return x.double() * inverse * gain.double(), inverse


def spread(values: Tensor | None, x: Tensor, axis: int) -> Tensor | None:
    """A 1-D scale along an axis of the rows."""
    if values is None or values.dim() != 1 or values.numel() == 1:
        return values
    axis = axis % x.dim()
    return values.reshape(*(-1 if dim == axis else 1 for dim in range(x.dim())))


def quantize(x: Tensor, scale: Tensor, zero: Tensor | None, divide: bool) -> Tensor:
    """int8 of x over (or times) a scale, plus a zero point."""
    values = x.double() / scale.double() if divide else x.double() * scale.double()
    return to_int8(values if zero is None else values + zero.double())


def by_largest(x: Tensor, smooth: Tensor | None) -> tuple[Tensor, Tensor]:
    """int8 of rows by their largest value, and the scales."""
    values = x.double() if smooth is None else x.double() * smooth.double()
    largest = values.abs().amax(-1) if values.shape[-1] else values.sum(-1)
    scale = largest / 127
    divisor = torch.where(scale == 0, 1.0, scale)
    return to_int8(values / divisor.unsqueeze(-1)), scale


def rotated(x: Tensor, mode: str) -> Tensor:
    """Neighbours, or halves, with the sign of a quarter turn."""
    if mode == "half":
        half = x.shape[-1] // 2
        return torch.cat([-x[..., half:], x[..., :half]], -1)
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


def rms_norm(given: Any) -> Any:
    """`npu_rms_norm`."""
    return norm(given["input"], given["gamma"], given["epsilon"])


def gemma_rms_norm(given: Any) -> Any:
    """`npu_gemma_rms_norm`: one plus the weight is the gain."""
    return norm(given["input"], given["gamma"].double() + 1, given["epsilon"])


def add_rms_norm(given: Any) -> Any:
    """`npu_add_rms_norm`: the norm, its factor and the sum."""
    total = given["x1"] + given["x2"]
    y, inverse = norm(total, given["gamma"], given["epsilon"])
    return y, inverse, total


def add_rms_norm_quant(given: Any) -> Any:
    """`npu_add_rms_norm_quant`: two int8 rows at most, and the sum."""
    total = given["x1"] + given["x2"]
    y, _ = norm(total, given["gamma"], given["epsilon"])
    y = y if given["beta"] is None else y + given["beta"]
    first = quantize(y, given["scales1"], given["zero_points1"], given["div_mode"])
    if given["scales2"] is None:
        return first, first.clone(), total
    return first, quantize(y, given["scales2"], given["zero_points2"], given["div_mode"]), total


def add_rms_norm_dynamic_quant(given: Any) -> Any:
    """`npu_add_rms_norm_dynamic_quant`: rows, rows, the sum, scales, scales."""
    total = given["x1"] + given["x2"]
    y, _ = norm(total, given["gamma"], given["epsilon"])
    y = y if given["beta"] is None else y + given["beta"]
    first, scale = by_largest(y, given["smooth_scale1"])
    second, scale2 = by_largest(y, given["smooth_scale2"])
    return first, second, total, scale, scale2


def rms_norm_quant(given: Any) -> Any:
    """`npu_rms_norm_quant`: its scale multiplies."""
    y, _ = norm(given["x"], given["gamma"], given["epsilon"])
    return quantize(y + given["beta"], given["scale"], given["offset"], False)


def npu_quantize(given: Any) -> Any:
    """`npu_quantize`; multiplying it takes the last axis unless told one before that."""
    axis = given["axis"]
    if not given["div_mode"] and axis >= -1:
        axis = -1
    x = given["input"]
    scale, zero = spread(given["scales"], x, axis), spread(given["zero_points"], x, axis)
    return quantize(x, scale, zero, given["div_mode"])


def dynamic_quant(given: Any) -> Any:
    """`npu_dynamic_quant`."""
    return by_largest(given["input"], given["smooth_scales"])


def quant_matmul(given: Any) -> Any:
    """`npu_quant_matmul`: an integer bias joins the sum, a floating one the result."""
    bias = given["bias"]
    total = given["x1"].double() @ given["x2"].double()
    if bias is not None and bias.dtype not in FLOAT_BIAS:
        total = total + bias.double()
    total = total * given["scale"].double()
    if given["pertoken_scale"] is not None:
        total = total * given["pertoken_scale"].double().unsqueeze(-1)
    return total + bias.double() if bias is not None and bias.dtype in FLOAT_BIAS else total


def swiglu(given: Any) -> Any:
    """`npu_swiglu`: the first half is activated."""
    gate, up = given["input"].double().chunk(2, given["dim"])
    return gate / (1 + torch.exp(-gate)) * up


def geglu(given: Any) -> Any:
    """`npu_geglu`: one half times the GELU of the other, and that GELU."""
    left, right = given["input"].double().chunk(2, given["dim"])
    gate, up = (left, right) if given["activate_left"] else (right, left)
    if given["approximate"] == 1:
        active = gate / (1 + torch.exp(-math.sqrt(8 / math.pi) * (gate + 0.044715 * gate**3)))
    else:
        active = gate * torch.special.ndtr(gate)
    return active * up, active


def swiglu_quant(given: Any) -> Any:
    """`npu_swiglu_quant` by each row's largest value, or by scales that multiply."""
    left, right = given["x"].double().chunk(2, -1)
    gate, up = (left, right) if given["activate_left"] else (right, left)
    values = gate / (1 + torch.exp(-gate)) * up
    if given["quant_mode"] == 1:
        return by_largest(values, given["smooth_scales"])
    y = quantize(values, given["smooth_scales"], given["offsets"], False)
    return y, values.new_zeros(values.shape[:-1])


def rotary_mul(given: Any) -> Any:
    """`npu_rotary_mul`."""
    x = given["input"].double()
    return x * given["r1"].double() + rotated(x, given["rotary_mode"]) * given["r2"].double()


def apply_rotary_pos_emb(given: Any) -> Any:
    """`npu_apply_rotary_pos_emb`: in place as well."""
    found = []
    for name in ("query", "key"):
        x = given[name]
        turned = x * given["cos"] + rotated(x, given["rotary_mode"]) * given["sin"]
        x.copy_(turned)
        found.append(turned)
    return tuple(found)


def qk_norm_rope(given: Any) -> Any:
    """`qk_norm_rope`: token t has row `t % rows` of the tables."""
    qkv, size, found, start = given["qkv"].double(), given["query_gain"].shape[0], [], 0
    tokens = math.prod(qkv.shape[:-1])
    tables = [given[name].double().reshape(-1, size) for name in ("cos", "sin")]
    shape = (*qkv.shape[:-1], 1, size)
    rows = torch.arange(tokens) % tables[0].shape[0] if tokens else torch.arange(0)
    cos, sin = (table[rows].reshape(shape) for table in tables)
    for name in ("query", "key"):
        end = start + given[f"{name}_heads"] * size
        heads = qkv[..., start:end].unflatten(-1, (given[f"{name}_heads"], size))
        y, _ = norm(heads, given[f"{name}_gain"], given["epsilon"])
        found.append(y * cos + rotated(y, "half") * sin)
        start = end
    return tuple(found)


def decode_attention(given: Any) -> Any:
    """`decode_attention`: zeros where no key counts."""
    query, key, value = (given[name].double() for name in ("query", "key", "value"))
    factor = given["scale"] if given["scale"] is not None else 1 / math.sqrt(query.shape[-1])
    scores = torch.einsum("bhgd,bhld->bhgl", query, key) * factor
    mask = given["mask"]
    if mask is not None:
        scores += torch.where(mask, 0.0, -math.inf) if mask.dtype == torch.bool else mask
    top = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).min)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    return torch.einsum("bhgl,bhld->bhgd", weights, value) / torch.where(total == 0, 1.0, total)


def mrope(given: Any) -> Any:
    """`npu_mrope` without sections: rows of cosines and sines by position."""
    size, mode = given["head_size"], given["rotary_mode"]
    cos, sin = given["cos_sin_cache"].double()[given["positions"]].chunk(2, -1)
    spread_out = (
        (lambda t: torch.cat([t, t], -1))
        if mode == "half"
        else (lambda t: t.repeat_interleave(2, -1))
    )
    cos, sin = spread_out(cos).unsqueeze(1), spread_out(sin).unsqueeze(1)
    found = []
    for name in ("query", "key"):
        x = given[name].double().unflatten(-1, (-1, size))
        found.append((x * cos + rotated(x, mode) * sin).flatten(1))
    return tuple(found)


def nothing(given: Any) -> Any:
    """`npu_prefetch` computes nothing."""
    return None


def ao_quantize(given: Any) -> Any:
    """`quantize_per_tensor` and `quantize_per_token`."""
    scale = given.get("scale", given.get("scales"))
    zero = given.get("zero_point", given.get("zero_points"))
    values = (given["input"].double() / scale).round() + zero
    return values.clamp(given["quant_min"], given["quant_max"]).to(given["dtype"])


def ao_dequantize(given: Any) -> Any:
    """`dequantize_per_tensor` and `dequantize_per_token`."""
    scale = given.get("scale", given.get("scales"))
    zero = given.get("zero_point", given.get("zero_points"))
    return (given["input"].double() - zero) * scale


def ao_dequantize_channels(given: Any) -> Any:
    """`dequantize_per_channel`."""
    x, axis = given["input"].double(), given["axis"]
    zero = spread(given["zero_points"], x, axis)
    values = x if zero is None else x - zero
    return values * spread(given["scales"].double(), x, axis)


def ao_choose(given: Any) -> Any:
    """`choose_qparams_per_token`, symmetric: the largest value, at least 1e-5, over 127."""
    largest = given["input"].abs().amax(-1, keepdim=True).double()
    scale = largest.clamp(min=1e-5) / 127
    return scale, torch.zeros_like(scale)


Formula = Callable[[Mapping[str, Any]], Any]
FORMULAS: Mapping[str, Formula] = MappingProxyType(
    {
        "npu::npu_rms_norm": rms_norm,
        "npu::npu_gemma_rms_norm": gemma_rms_norm,
        "npu::npu_add_rms_norm": add_rms_norm,
        "npu::npu_add_rms_norm_quant": add_rms_norm_quant,
        "npu::npu_add_rms_norm_dynamic_quant": add_rms_norm_dynamic_quant,
        "npu::npu_rms_norm_quant": rms_norm_quant,
        "npu::npu_quantize": npu_quantize,
        "npu::npu_dynamic_quant": dynamic_quant,
        "npu::npu_quant_matmul": quant_matmul,
        "npu::npu_geglu": geglu,
        "npu::npu_swiglu": swiglu,
        "npu::npu_swiglu_quant": swiglu_quant,
        "npu::npu_rotary_mul": rotary_mul,
        "npu::npu_apply_rotary_pos_emb": apply_rotary_pos_emb,
        "npu::npu_mrope": mrope,
        "npu::npu_prefetch": nothing,
        "ascend_passes::qk_norm_rope": qk_norm_rope,
        "ascend_passes::decode_attention": decode_attention,
        "quantized_decomposed::quantize_per_tensor": ao_quantize,
        "quantized_decomposed::quantize_per_token": ao_quantize,
        "quantized_decomposed::dequantize_per_tensor": ao_dequantize,
        "quantized_decomposed::dequantize_per_token": ao_dequantize,
        "quantized_decomposed::dequantize_per_channel": ao_dequantize_channels,
        "quantized_decomposed::choose_qparams_per_token": ao_choose,
    }
)
