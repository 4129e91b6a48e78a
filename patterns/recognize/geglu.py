"""GeGLU of one packed projection becomes `npu_geglu`, its GELU exact or by a tanh.

The operator activates either half. Separate projections stay: they would have to be copied side by
side, and nothing behind joins the operator."""

from typing import Literal

import torch

from ascend_passes import Rule, npu

from ._rows import Packed

KINDS = {"none": 0, "tanh": 1}  # the operator's `approximate`


def pattern(x: Packed, *, approximate: Literal["tanh", "none"], right: bool):
    left, other = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    gate, up = (other, left) if right else (left, other)
    return torch.nn.functional.gelu(gate, approximate=approximate) * up


def replacement(x, *, approximate, right):
    return npu.npu_geglu(x, -1, KINDS[approximate], not right)[0]


# float32 takes erfc, itself within 1.5 ULP, or a sigmoid, and two products.
rule = Rule(pattern, replacement, examples=[{"I": 64}, {"I": 24576}], tolerance=3)
