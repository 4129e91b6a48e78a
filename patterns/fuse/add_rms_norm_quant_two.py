"""One sum, normalised and quantized with two scales, becomes one `npu_add_rms_norm_quant` with two
results.

Separate projections of one row may each store a scale of their own; the operator has a second
output.
"""

from typing import Annotated

from torch import Tensor

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]
Gain = Annotated[Tensor, "H"]
Scale = Annotated[Tensor, "S"]
INT8 = 1  # torch's number for the dtype, which the operator takes


def pattern(x: Rows, residual: Rows, gamma: Gain, scale: Scale, scale2: Scale, *, eps: float):
    y, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    first = npu.npu_quantize(y, scale, None, INT8, -1, True)
    second = npu.npu_quantize(y, scale2, None, INT8, -1, True)
    return first, second, total


def replacement(
    x: Tensor, residual: Tensor, gamma: Tensor, scale: Tensor, scale2: Tensor, *, eps: float
):
    whole, whole2 = (one.expand(gamma.shape).contiguous() for one in (scale, scale2))
    return npu.npu_add_rms_norm_quant(x, residual, gamma, whole, None, scales2=whole2, epsilon=eps)


def where(S, H):
    yield S == 1 or S == H, f"the scales have {S} numbers, the operator wants one or {H}"


rule = Rule(pattern, replacement, where, examples=[{"H": 64, "S": 1}])
