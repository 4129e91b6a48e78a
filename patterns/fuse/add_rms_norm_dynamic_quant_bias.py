"""Residual add, RMSNorm, a bias and a quantize by each row's largest value become one operator.

As `add_rms_norm_dynamic_quant`; the bias is the operator's `beta`.
"""

from typing import Annotated

from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Bias = Annotated[Tensor, "H"]


def plain(x: Rows, residual: Rows, gamma: Gain, bias: Bias, *, eps: float):
    """Without a smoothing scale."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return *npu.npu_dynamic_quant(y + bias), total


def smooth(x: Rows, residual: Rows, gamma: Gain, bias: Bias, smooth_scale: Gain, *, eps: float):
    """With a smoothing scale."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return *npu.npu_dynamic_quant(y + bias, smooth_scales=smooth_scale), total


def replacement(x: Tensor, residual: Tensor, gamma: Tensor, bias, smooth_scale=None, *, eps: float):
    given = {"smooth_scale1": smooth_scale, "beta": bias, "output_mask": [True, False]}
    rows, _, total, scale, _ = npu.npu_add_rms_norm_dynamic_quant(
        x, residual, gamma, **given, epsilon=eps
    )
    return rows, scale, total


rule = Rule(
    [plain, smooth],
    replacement,
    examples=[{"H": 64}, {"H": 5120}],
    limit="npu_add_rms_norm_dynamic_quant gives no plain row",
)
