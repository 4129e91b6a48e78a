"""Residual add, RMSNorm and a quantize with a stored scale become one `npu_add_rms_norm_quant`.

A bias is the operator's `beta`; projections with scales of their own take its second result. The
scale divides or multiplies (`reciprocal`, as in vllm-ascend); a single one is spread, once. Beside
float16 the operator takes int32 zero points, so there they have to come from whole numbers."""

import torch

from ascend_passes import Rule, npu

from ._quantized import HALVES, INT8, AnyScale, Gain, Rows, Zero, has_form, is_whole, normed, spread


def pattern(
    x: Rows,
    residual: Rows,
    gamma: Gain,
    scale: AnyScale,
    zero: Zero,
    bias: Gain | None,
    scale2: AnyScale | None,
    zero2: Zero,
    *,
    eps: float,
    reciprocal: bool,
):
    lone = zero2 is not None and (zero is None or scale2 is None or zero.dtype != zero2.dtype)
    if lone or not has_form(scale, zero, reciprocal):
        return None  # no such second point
    y, total = normed(x, residual, gamma, bias, eps)
    pairs = [(scale, zero), (scale2, zero2)][: 1 if scale2 is None else 2]
    given = ((one, point.to(x.dtype) if is_whole(point) else point) for one, point in pairs)
    return *(npu.npu_quantize(y, *pair, INT8, -1, not reciprocal) for pair in given), total


def replacement(x, residual, gamma, scale, zero, bias, scale2, zero2, *, eps, reciprocal):
    narrow = (None, x.dtype if is_whole(zero) else None)
    wide = (torch.float32, torch.int32) if reciprocal and x.dtype == torch.float16 else narrow
    one, two = spread(gamma, (scale, scale2), wide[0])
    zeros, zeros2 = spread(gamma, (zero, zero2), wide[1])
    y, y2, total = npu.npu_add_rms_norm_quant(
        x, residual, gamma, one, zeros, bias, two, zeros2, epsilon=eps, div_mode=not reciprocal
    )
    return (y, total) if scale2 is None else (y, y2, total)


def where(x, zero, S, H):
    yield S == 1 or S == H, f"the scale has {S} numbers, the operator wants one or {H}"
    if zero is not None and zero.dtype == x.dtype:
        whole = x.dtype != torch.float16
        yield whole, "beside float16 the zero point is int32, and this one may be no whole number"


LIMIT = "npu_add_rms_norm_quant gives two quantized rows at most and no plain one"
SIZES = [{"H": 64, "S": 1}, {"H": 256, "S": 256}]
rule = Rule(pattern, replacement, where, examples=SIZES, dtypes=HALVES, limit=LIMIT)
