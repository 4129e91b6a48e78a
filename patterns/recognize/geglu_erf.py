"""GeGLU of one packed projection, its GELU exact, becomes `npu_geglu`.

The operator activates its right half unless told otherwise. Separate projections stay: they would
have to be copied side by side, and nothing behind joins the operator.
"""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule, npu

Packed = Annotated[Tensor, "... 2*I"]


def pattern(x: Packed):
    gate, up = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.nn.functional.gelu(gate) * up


def replacement(x: Tensor):
    return npu.npu_geglu(x, -1, 0, True)[0]


rule = Rule(pattern, replacement, examples=[{"I": 64}, {"I": 24576}], tolerance=2)
