"""Residual add, RMSNorm and a quantize by each row's largest value become one operator.

`npu_add_rms_norm_dynamic_quant` hands back the int8 rows, a float32 scale for each and the sum. A
smoothing scale multiplies the rows first; a bias behind the norm is the operator's `beta`.
Projections that are smoothed apart take its second rows. A third one, as q, k and v have, takes
another call: two calls read 8 bytes a number and write 7, a norm and three quantizes read 10."""

from ascend_passes import Rule, npu

from ._quantized import HALVES, WIDTHS, Gain, Rows, normed

Columns = Gain | None


def pattern(
    x: Rows,
    residual: Rows,
    gamma: Gain,
    bias: Columns,
    smooth: Columns,
    smooth2: Columns,
    smooth3: Columns,
    *,
    eps: float,
):
    smooths = [smooth, smooth2, smooth3]
    count = sum(one is not None for one in smooths)
    if None in smooths[:count]:
        return None  # counted from the first
    y, total = normed(x, residual, gamma, bias, eps)
    quantized = (npu.npu_dynamic_quant(y, smooth_scales=one) for one in smooths[: count or 1])
    return *(result for pair in quantized for result in pair), total


def replacement(x, residual, gamma, bias, smooth, smooth2, smooth3, *, eps):
    def call(one, other):
        mask = [True, other is not None]
        given = {"smooth_scale1": one, "smooth_scale2": other, "beta": bias, "epsilon": eps}
        return npu.npu_add_rms_norm_dynamic_quant(x, residual, gamma, **given, output_mask=mask)

    rows, rows2, total, scale, scale2 = call(smooth, smooth2)
    pairs = [rows, scale] if smooth2 is None else [rows, scale, rows2, scale2]
    if smooth3 is not None:
        rows3, _, _, scale3, _ = call(smooth3, None)
        pairs += [rows3, scale3]
    return *pairs, total


LIMIT = "npu_add_rms_norm_dynamic_quant gives no plain row"
# A smoothed row rounds once more than the operator's, by which its scale differs.
rule = Rule(pattern, replacement, examples=WIDTHS, dtypes=HALVES, limit=LIMIT, tolerance=2)
