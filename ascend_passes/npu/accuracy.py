"""How far each operator's reference may be from float64; tests hold it to these numbers.

The float64 value is computed from the formula on the same inputs. ULP are units in the last place
of the result's dtype, taken at the float64 value: 0.5 is correctly rounded. LSB are steps of an
integer result, from the float64 value before it is rounded: 0.5 is the nearest integer. Scales that
an operator returns are float32 whatever its inputs are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

ULP, LSB = "ULP", "LSB"
FLOAT16, BFLOAT16, FLOAT32 = torch.float16, torch.bfloat16, torch.float32
ONE_ROUNDING = 0.51
"""Half a unit, and what float32 inside adds to it."""
TWO_ROUNDINGS = 1.51
"""Half a unit of `x * rstd`, up to doubled by the product with gamma, and half a unit of that."""
SINGLE = 6.0
"""The mean, the root and two products, or an exponential and a quotient, all in float32."""
NEAREST, NEAREST_BEHIND = 0.5001, 0.501
"""The nearest integer, and what float32 adds: of a product alone, or behind a norm or a gate."""
FLOAT16_ROUNDINGS = 3
"""Roundings to float16 between a norm and its quantize on float16 inputs; bfloat16 has none."""
FLOAT16_UNIT = 2.0**-11
"""Half a unit in the last place of float16, relative."""
DYNAMIC_ERROR = 2.0**-20
"""float32's relative error of a norm's row, before its largest value becomes the scale."""
ROTATION_ERROR = 2.0**-20
"""float32's error of the two products of a rotation, which may cancel; of inputs up to 8."""


@dataclass(frozen=True)
class Bound:
    """The largest error of one result of an operator."""

    result: str
    """Its name in the operator's documentation."""
    unit: str
    largest: Mapping[torch.dtype, float]
    """Dtype of the floating inputs, or of the result where all inputs are integers -> bound."""
    besides: str = ""
    """What comes on top for some inputs."""


def halves(number: float, single: float | None = None) -> Mapping[torch.dtype, float]:
    """One bound for both half precisions, and another for float32 where the operator takes it."""
    found = {FLOAT16: number, BFLOAT16: number}
    return found if single is None else {**found, FLOAT32: single}


SUM = Bound("x1 + x2", ULP, halves(0.5, 0.5))
HALF_SUM = Bound("x1 + x2", ULP, halves(0.5))
GAINED = Bound("y", ULP, halves(TWO_ROUNDINGS, SINGLE))
RSTD = Bound("rstd", ULP, halves(SINGLE, SINGLE))
BEHIND_NORM = (
    f"float16: {FLOAT16_ROUNDINGS} roundings to float16 of the value before the quantize, in LSB"
)
BEHIND_SUM = f"{DYNAMIC_ERROR:.2g} of the row's largest value, by which its scale moves"
QUANTIZED = Bound("y", LSB, halves(NEAREST_BEHIND), BEHIND_NORM)
ROTATED = halves(0.5, 0.5)
CANCELS = f"{ROTATION_ERROR:.2g} absolute, where the two products cancel"
PARTIALS = "2^-8 of the sum of magnitudes for each rank, whose partial sum is rounded to bfloat16"

BOUNDS: Mapping[str, tuple[Bound, ...]] = MappingProxyType(
    {
        "npu_rms_norm": (
            GAINED,
            Bound("y with a float32 gamma", ULP, halves(ONE_ROUNDING)),
            RSTD,
        ),
        "npu_gemma_rms_norm": (Bound("y", ULP, halves(ONE_ROUNDING, SINGLE)),),
        "npu_add_rms_norm": (GAINED, SUM),
        "npu_add_rms_norm_quant": (QUANTIZED, HALF_SUM),
        "npu_rms_norm_quant": (QUANTIZED,),
        "npu_rms_norm_quant_v2": (QUANTIZED,),
        "npu_add_rms_norm_dynamic_quant": (
            Bound("y", LSB, halves(NEAREST_BEHIND), f"{BEHIND_NORM}; bfloat16: {BEHIND_SUM}"),
            HALF_SUM,
        ),
        "npu_quantize": (Bound("y", LSB, halves(NEAREST, NEAREST)),),
        "npu_dynamic_quant": (
            Bound("y", LSB, halves(NEAREST)),
            Bound("scale", ULP, halves(2.0)),
        ),
        "npu_quant_matmul": (
            Bound("y", ULP, halves(ONE_ROUNDING)),
            Bound("y in int8", LSB, {torch.int8: 0.5}),
        ),
        "npu_swiglu": (Bound("y", ULP, halves(ONE_ROUNDING, SINGLE)),),
        "npu_swiglu_quant": (
            Bound("y", LSB, halves(NEAREST_BEHIND, NEAREST_BEHIND)),
            Bound("scale", ULP, halves(SINGLE, SINGLE)),
        ),
        "npu_dequant_swiglu_quant": (
            Bound("y", LSB, {torch.int32: NEAREST_BEHIND}),
            Bound("scale", ULP, {torch.int32: 3 * SINGLE}),
        ),
        "npu_rotary_mul": (Bound("y", ULP, ROTATED, CANCELS),),
        "npu_apply_rotary_pos_emb": (Bound("query and key", ULP, ROTATED, CANCELS),),
        "npu_mrope": (Bound("query and key", ULP, ROTATED, CANCELS),),
        "npu_all_gather_quant_mm": (Bound("y", ULP, {BFLOAT16: ONE_ROUNDING}),),
    }
)
"""Operator -> the bounds of its results."""
AS_EXACT_AS: Mapping[str, str] = MappingProxyType(
    {
        "npu_add_rms_norm_cast": "bit for bit `npu_add_rms_norm`; its float32 result is y, widened",
        "npu_trans_quant_param": "the upper 19 bits of each scale, offsets as they are",
        "npu_mm_all_reduce_base": PARTIALS,
        "npu_mm_reduce_scatter_base": PARTIALS,
        "npu_quant_mm_reduce_scatter": PARTIALS,
        "npu_all_gather_base_mm": "2^-8 relative, and 2^-16 of the sum of magnitudes",
        "npu_prefetch": "computes nothing",
        "npu_scatter_pa_kv_cache": "copies bits",
        "_npu_reshape_and_cache": "copies bits",
    }
)
"""The operators that no number of units describes, and what holds of them."""


def bound(operator: str, result: str, dtype: torch.dtype) -> float:
    """The bound of one result.

    Raises:
        KeyError: nothing is stated for this operator, result or dtype.
    """
    return {one.result: one.largest for one in BOUNDS[operator]}[result][dtype]
