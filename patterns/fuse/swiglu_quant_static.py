"""SwiGLU and a quantize with a stored scale become one `npu_swiglu_quant`.

The operator multiplies by float32 scales and adds float32 offsets, so what divides becomes a
reciprocal; both depend on parameters alone and are made once. Limit of the operator: at most 8192
columns. It activates its right half unless told otherwise."""

from ascend_passes import Rule, npu

from ._quantized import HALVES, INT8, AnyScale, Packed, Zero, has_form, is_whole


def pattern(packed: Packed, scale: AnyScale, zero: Zero, *, reciprocal: bool):
    if not has_form(scale, zero, reciprocal):
        return None
    point = zero.to(packed.dtype) if is_whole(zero) else zero
    return npu.npu_quantize(npu.npu_swiglu(packed, -1), scale, point, INT8, -1, not reciprocal)


def replacement(packed, scale, zero, *, reciprocal):
    shape = [1] if scale.numel() == 1 else [1, scale.numel()]
    factor = scale.float() if reciprocal else 1 / scale.float()
    given = {"smooth_scales": factor.reshape(shape), "activate_left": True, "quant_mode": 0}
    offsets = None if zero is None else zero.float().reshape(shape)
    return npu.npu_swiglu_quant(packed, **given, offsets=offsets)[0]


def where(S, I):  # noqa: E741 - a named size
    yield S == 1 or S == I, f"the scale has {S} numbers and the gated row {I} columns"


EXAMPLES = [{"I": 64, "S": 1}, {"I": 256, "S": 256}]
ALONE = "npu_swiglu_quant gives no plain row"
rule = Rule(pattern, replacement, where, EXAMPLES, HALVES, limit=ALONE)
