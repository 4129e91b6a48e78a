"""SwiGLU and a quantize by each row's largest value become one `npu_swiglu_quant`.

Limit of the operator: at most 8192 columns. It activates its right half unless told otherwise."""

from ascend_passes import Rule, npu

from ._quantized import Packed


def pattern(packed: Packed):
    return npu.npu_dynamic_quant(npu.npu_swiglu(packed, -1))


def replacement(packed):
    return npu.npu_swiglu_quant(packed, activate_left=True, quant_mode=1)


LIMIT = "npu_swiglu_quant gives no plain row"
rule = Rule(pattern, replacement, examples=[{"I": 64}, {"I": 512}], limit=LIMIT)
