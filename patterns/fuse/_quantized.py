"""What the rules about quantized norms share: declarations, and how a scale is spread."""

from typing import Annotated, TypeVar

import torch
from torch import Tensor

from ascend_passes import npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
FloatGain = Annotated[Tensor, "H", torch.float32]
Packed = Annotated[Tensor, "... 2*I"]
One = Annotated[Tensor, "1"]
Offset = Annotated[Tensor, "1", torch.int8]
Scale = Annotated[Tensor, "S"]
Wide = Annotated[Tensor, "S", torch.float32]
WideZero = Annotated[Tensor, "S", torch.int32]
Whole = Annotated[Tensor, "S", torch.int8]
AnyScale = TypeVar("Width", Scale, Wide)
AnyZero = TypeVar("Width", Scale, WideZero)
Zero = AnyZero | Whole | None
INT8 = 1  # torch's number for the dtype, which the operators take
WIDTHS = [{"H": 64}, {"H": 5120}]  # of rows, for tests
HALVES = (torch.bfloat16, torch.float16)  # the rows that the fused operators take


def is_whole(zero: Tensor | None) -> bool:
    """Whether a zero point is stored as int8, and cast to the rows' dtype."""
    return zero is not None and zero.dtype == torch.int8


def has_form(scale: Tensor, zero: Tensor | None, reciprocal: bool) -> bool:
    """Whether a quantize has this scale and zero point: one that multiplies, and the scale beside a
    zero point that is cast, have the rows' dtype."""
    return scale.dtype != torch.float32 or not (reciprocal or is_whole(zero))


def normed(x: Tensor, residual: Tensor, gamma: Tensor, bias: Tensor | None, eps: float):
    """The normalised sum, with a bias where there is one, and the sum."""
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return y if bias is None else y + bias, total


def spread(gamma: Tensor, tensors, dtype: torch.dtype | None):
    """Each tensor, None or of one element or the gain's, in the gain's shape."""
    for tensor in tensors:
        yield tensor if tensor is None else tensor.expand(gamma.shape).contiguous().to(dtype)
