"""SwiGLU of one packed projection becomes `npu_swiglu`.

`chunk`, `split` and slices are one form once normalized. The operator activates the first half."""

import torch

from ascend_passes import Rule, npu

from ._rows import Packed


def pattern(packed: Packed):
    half = packed.shape[-1] // 2
    left, right = packed[..., :half], packed[..., half:]
    return torch.nn.functional.silu(left) * right


def replacement(packed):
    return npu.npu_swiglu(packed, -1)


rule = Rule(pattern, replacement, examples=[{"I": 64}, {"I": 25600}], tolerance=2)
