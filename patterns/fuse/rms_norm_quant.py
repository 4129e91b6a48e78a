"""RMSNorm and a quantize with one stored scale become one `npu_rms_norm_quant`.

The first norm of a model has no residual. The operator multiplies by its scale, adds a bias and
takes an int8 zero point, so what divides becomes a reciprocal, and what is absent zeros; of Gemma's
norm the gain is one plus the weight. All of it depends on parameters alone and is made once."""

import torch

from ascend_passes import Rule, npu

from ._quantized import HALVES, INT8, WIDTHS, Gain, Offset, One, Rows


def pattern(
    x: Rows,
    gamma: Gain,
    scale: One,
    zero: Offset | None,
    bias: Gain | None,
    *,
    eps: float,
    reciprocal: bool,
    gemma: bool,
):
    y, _ = (npu.npu_gemma_rms_norm if gemma else npu.npu_rms_norm)(x, gamma, eps)
    y = y if bias is None else y + bias
    point = None if zero is None else zero.to(x.dtype)
    return npu.npu_quantize(y, scale, point, INT8, -1, not reciprocal)


def replacement(x, gamma, scale, zero, bias, *, eps, reciprocal, gemma):
    factor = scale if reciprocal else (1 / scale.to(torch.float32)).to(x.dtype)
    gain, beta = gamma + 1 if gemma else gamma, torch.zeros_like(gamma) if bias is None else bias
    offset = torch.zeros_like(scale, dtype=torch.int8) if zero is None else zero
    return npu.npu_rms_norm_quant(x, gain, beta, factor, offset, eps)


LIMIT = "npu_rms_norm_quant gives one quantized row and no plain one"
# Gain, reciprocal and bias each round to the rows' dtype: with Gemma's, by over one step in all.
MORE = {"after": ("add_rms_norm", "add_gemma_rms_norm"), "tolerance": 2}
rule = Rule(pattern, replacement, examples=WIDTHS[:1], dtypes=HALVES, limit=LIMIT, **MORE)
