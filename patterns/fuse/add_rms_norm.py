"""Residual add and RMSNorm become one `npu_add_rms_norm`.

Every decoder block adds its input back and normalises the sum. The fused kernel reads both once and
hands back the sum for the next block. It takes no float32 gain beside half-precision rows, as
`npu_rms_norm` alone does: such a norm stays, and is told."""

from ascend_passes import Rule, npu

from ._quantized import WIDTHS, FloatGain, Gain, Rows


def pattern(x: Rows, residual: Rows, gamma: Gain | FloatGain, *, eps: float):
    total = x + residual
    return npu.npu_rms_norm(total, gamma, eps)[0], total


def replacement(x, residual, gamma, *, eps):
    return npu.npu_add_rms_norm(x, residual, gamma, eps)[::2]


rule = Rule(pattern, replacement, examples=WIDTHS)
