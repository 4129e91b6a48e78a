"""Residual add and Gemma's RMSNorm become one `npu_add_rms_norm` with one plus the weight as its
gain.

The gain depends on a parameter alone and is computed once. In half precision it is rounded, which
a quantize behind it does not notice; where none follows, the pass `unrounded_gain` takes the add
out again."""

from ascend_passes import Rule, npu

from ._quantized import Gain, Rows


def pattern(x: Rows, residual: Rows, gamma: Gain, *, eps: float):
    total = x + residual
    return npu.npu_gemma_rms_norm(total, gamma, eps)[0], total


def replacement(x, residual, gamma, *, eps):
    return npu.npu_add_rms_norm(x, residual, gamma + 1, eps)[::2]


# One plus the weight rounds.
rule = Rule(pattern, replacement, examples=[{"H": 64}, {"H": 2560}], tolerance=3)
