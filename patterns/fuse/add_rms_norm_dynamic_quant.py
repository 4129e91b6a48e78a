"""Residual add, RMSNorm and a quantize by each row's largest value become one operator.

`npu_add_rms_norm_dynamic_quant` hands back the int8 rows, a float32 scale for each and the sum. A
smoothing scale multiplies the rows first; a bias behind the norm is the operator's `beta`."""

from ascend_passes import Rule, npu

from ._quantized import HALVES, WIDTHS, Gain, Rows, normed


def pattern(
    x: Rows, residual: Rows, gamma: Gain, bias: Gain | None, smooth: Gain | None, *, eps: float
):
    y, total = normed(x, residual, gamma, bias, eps)
    return *npu.npu_dynamic_quant(y, smooth_scales=smooth), total


def replacement(x, residual, gamma, bias, smooth, *, eps):
    given = {"smooth_scale1": smooth, "beta": bias, "epsilon": eps, "output_mask": [True, False]}
    rows, _, total, scale, _ = npu.npu_add_rms_norm_dynamic_quant(x, residual, gamma, **given)
    return rows, scale, total


LIMIT = "npu_add_rms_norm_dynamic_quant gives no plain row"
# A smoothed row rounds once more than the operator's, by which its scale differs.
rule = Rule(pattern, replacement, examples=WIDTHS, dtypes=HALVES, limit=LIMIT, tolerance=2)
