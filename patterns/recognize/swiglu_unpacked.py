"""SwiGLU of separate gate and up projections becomes `npu_swiglu` of both, side by side.

Two kernels stand for two kernels, and a quantize behind them can then join (`swiglu_quant`)."""

import torch

from ascend_passes import Rule, npu

from ._rows import Half


def pattern(gate: Half, up: Half):
    return torch.nn.functional.silu(gate) * up


def replacement(gate, up):
    return npu.npu_swiglu(torch.cat([gate, up], -1), -1)


rule = Rule(pattern, replacement, examples=[{"I": 64}, {"I": 512}], tolerance=2)
