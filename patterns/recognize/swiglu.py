"""SwiGLU of one packed projection becomes `npu_swiglu`.

`chunk`, `split` and slices are one form after normalization. The operator activates the first half.
"""

import torch
from torch import Tensor

from ascend_passes import Rule, npu

from ._rows import Packed


def pattern(packed: Packed):
    half = packed.shape[-1] // 2
    gate, up = packed[..., :half], packed[..., half:]
    return torch.nn.functional.silu(gate) * up


def replacement(packed: Tensor):
    return npu.npu_swiglu(packed, -1)


rule = Rule(pattern, replacement, examples=[{"I": 64}, {"I": 25600}], tolerance=2)
