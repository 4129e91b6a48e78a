"""Where torch_npu 2.13's Meta functions are wrong; everywhere else ours must agree with them.

Each entry is held by a test that sees the fault, so that one that a later wheel mends is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

KEEPS_STRIDES: Mapping[str, str] = MappingProxyType(
    {
        name: "Meta gives a result the strides of its input; the kernel's result is contiguous"
        for name in (
            "npu_rms_norm",
            "npu_add_rms_norm",
            "npu_quantize",
            "npu_dynamic_quant",
        )
    }
)
"""Operator -> the fault, on inputs that are not contiguous."""

SYMBOLIC: Mapping[str, str] = MappingProxyType(
    {
        name: "Meta divides as floats, FloorToInt(a / b), which nothing proves equal to a // b"
        for name in (
            "npu_mm_reduce_scatter_base",
            "npu_quant_mm_reduce_scatter",
            "npu_swiglu",
            "npu_swiglu_quant",
        )
    }
)
"""Operator -> the fault, for symbolic sizes alone."""

NO_META: Mapping[str, str] = MappingProxyType(
    {"_npu_reshape_and_cache": "it has no result, only caches that it writes"}
)
"""Operator -> what the wheel does in place of a Meta function."""

OPTIONAL: Mapping[str, str] = MappingProxyType(
    {"npu_rms_norm_quant_v2": "Meta raises a TypeError where offset or beta is left out"}
)
"""Operator -> the fault, where optional arguments are left out."""

ALLOCATED: Mapping[str, str] = MappingProxyType(
    {
        "npu_add_rms_norm_dynamic_quant": "a result that is off has shape (0,) in Meta, () in C++",
        "npu_rms_norm_quant_v2": "Meta promises rstd, and C++ leaves it empty",
    }
)
"""Operator -> how Meta differs from what the C++ operator returns; our fake follows Meta."""
