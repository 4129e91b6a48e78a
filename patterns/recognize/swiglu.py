"""SwiGLU of one packed projection becomes `npu_swiglu`.

`chunk`, `split` and slices are one form after normalization. The operator activates the first half.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Packed = Annotated[Tensor, "... 2*I"]


def pattern(x: Packed):
    gate, up = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.nn.functional.silu(gate) * up


def replacement(x: Tensor):
    return npu.npu_swiglu(x, -1)


rule = Rule(pattern, replacement, examples=[{"I": 64}, {"I": 25600}], tolerance=2)
