"""What the rules about rows share: declarations, and the norm without its gain."""

from typing import Annotated

import torch
from torch import Tensor

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Packed = Annotated[Tensor, "... 2*I"]
FloatGain = Annotated[Tensor, "H", torch.float32]


def normalized(x: Tensor, eps: float) -> Tensor:
    """x over its root mean square, in float32."""
    wide = x.to(torch.float32)
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
