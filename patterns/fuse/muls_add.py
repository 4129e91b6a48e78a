"""A multiple of one tensor added to another becomes one add with `alpha`.

It rounds once where two operators round twice, so ordinary graphs would change bits: off unless
`rules="+muls_add"` asks for it. Limits by CANN's `aclnn_add.cpp` and by torch's CPU kernel: the
factor is rounded to the tensors' dtype, so a half precision has to hold it. float16 and float32 are
one kernel, bfloat16 on Ascend 950 alone: on A2 and A3 one call runs two, with the bits of two."""

from typing import Annotated

import torch
from torch import Tensor

from ascend_passes import Rule

Rows = Annotated[Tensor, "... H"]


def pattern(x: Rows, y: Rows, *, factor: float):
    return x * factor + y


def replacement(x, y, *, factor):
    return torch.add(y, x, alpha=factor)


def where(x, factor):
    held = x.dtype == torch.float32 or float(torch.tensor(factor, dtype=x.dtype)) == factor
    yield held, f"{factor} is no number of {x.dtype}, to which the add would round it"


VALUES = {"factor": [2.5, 0.1, -0.75]}
rule = Rule(pattern, replacement, where, [{"H": 64}, {"H": 4096}], default=False, values=VALUES)
