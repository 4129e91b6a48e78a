"""What the rules about rows share: declarations, and the norm without its gain."""

from typing import Annotated, Literal, TypeVar

import torch
from torch import Tensor

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Packed = Annotated[Tensor, "... 2*I"]
FloatGain = Annotated[Tensor, "H", torch.float32]
Scale = Annotated[Tensor, "1"]
Heads = Annotated[Tensor, "B S N H"]
RowsOrHeads = TypeVar("Layout", Rows, Heads)
Moved = TypeVar("Layout", Literal[False], Literal[True])
Half = Annotated[Tensor, "... I"]
WIDTHS = [{"H": 64}, {"H": 5120}]  # of rows, for tests


def normalized(x: Tensor, eps: float) -> Tensor:
    """x over its root mean square, in float32."""
    wide = x.to(torch.float32)
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
