"""Where torch_npu's Meta functions are wrong; everywhere else ours must agree with them.

The releases that the tests run with share their faults, but for `OLDER`.

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

MASKED = "npu_add_rms_norm_dynamic_quant"
OLDER: Mapping[str, str] = MappingProxyType(
    {
        MASKED: "npu_add_rms_norm_dynamic_quant(Tensor x1, Tensor x2, Tensor gamma, *, "
        "Tensor? smooth_scale1=None, Tensor? smooth_scale2=None, Tensor? beta=None, "
        "float epsilon=9.9999999999999995e-07, bool[2] output_mask=[], ScalarType? y_dtype=None)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        "npu_moe_finalize_routing": "npu_moe_finalize_routing(Tensor expanded_permuted_rows, "
        "Tensor? skip1, Tensor? skip2, Tensor? bias, Tensor? scales, "
        "Tensor expanded_src_to_dst_row, Tensor? export_for_source_row, int? drop_pad_mode=0)"
        " -> Tensor",
    }
)
"""Operator -> its schema in torch_npu 2.10.

The mask of the first, `output_mask`, takes no None there and cannot be left out: its default has no
element, where two are wanted. Meta gives the second scales a whole shape there although they are
off. Our rules always say what is on, and read nothing that is off. The second has no `k`, which
nothing of ours gives.
"""
