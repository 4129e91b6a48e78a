"""SwiGLU and a quantize by each row's largest value become one `npu_swiglu_quant`.

Limit of the operator: at most 8192 columns. It activates its right half unless told otherwise.
"""

from typing import Annotated

from torch import Tensor

from ascend_passes import Rule, npu

Packed = Annotated[Tensor, "... 2*I"]


def pattern(x: Packed):
    return npu.npu_dynamic_quant(npu.npu_swiglu(x, -1))


def replacement(x: Tensor):
    return npu.npu_swiglu_quant(x, activate_left=True, quant_mode=1)


rule = Rule(
    pattern,
    replacement,
    examples=[{"I": 64}, {"I": 512}],
    limit="npu_swiglu_quant gives no plain row",
)
