"""Which operators have a kernel of ours, on CUDA and on an NPU, and what runs an eager call of one.

What a graph has in its place is in `in_graph`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

from ascend_passes.npu.operator import Operator

FAMILIES = {
    "norm": (
        "npu_rms_norm",
        "npu_gemma_rms_norm",
        "npu_add_rms_norm",
        "npu_add_rms_norm_quant",
        "npu_add_rms_norm_dynamic_quant",
        "npu_rms_norm_quant",
    ),
    "quantize": ("npu_dynamic_quant",),
    "swiglu": ("npu_swiglu", "npu_swiglu_quant", "swiglu_then_quant"),
    "rotary": ("npu_rotary_mul",),
    "matmul": ("npu_quant_matmul",),
    "packed_heads": ("qk_norm_rope",),
    "attention": ("decode_attention",),
    "collective": ("npu_quant_mm_reduce_scatter", "npu_all_gather_quant_mm"),
}
"""File of this folder -> what it has kernels for, so that none is loaded early: operators, and in
graphs a quantize behind a gate."""
log = logging.getLogger("ascend_passes.kernels")


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed, which Inductor and our kernels need on CUDA."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def has_triton_ascend() -> bool:
    """Whether the Triton that is installed is Huawei's, which compiles our kernels on an NPU."""
    return has_triton() and importlib.util.find_spec("triton.backends.ascend") is not None


def kernel_file(name: str) -> Any:
    """The file with an operator's kernel."""
    family = next(file for file, names in FAMILIES.items() if name in names)
    return importlib.import_module(f"ascend_passes.npu.cuda.{family}")


@functools.cache
def kernel_of(name: str) -> Callable[..., Any] | None:
    """What launches an operator's kernel; None where there is none."""
    if not any(name in names for names in FAMILIES.values()) or not has_triton():
        return None
    from ascend_passes.npu.cuda.launch import launch_now

    return functools.partial(kernel_file(name).KERNELS[name], launch_now)


def with_kernel(operator: Operator, usable: Callable[[], bool] = has_triton) -> Callable[..., Any]:
    """The operator on a device: its kernel where there is one for the call, else its reference.

    Args:
        operator: any.
        usable: whether kernels of ours run on the device.
    """
    if not any(operator.name in names for names in FAMILIES.values()):
        return operator.reference
    return or_reference(operator, lambda: kernel_of(operator.name) if usable() else None)


def or_reference(
    operator: Operator, find_kernel: Callable[[], Callable[..., Any] | None]
) -> Callable[..., Any]:
    """Runs what `find_kernel` finds at a call; the reference where it is none or is defeated."""

    @functools.wraps(operator.reference)
    def run(*arguments: Any, **keywords: Any) -> Any:
        kernel = find_kernel()
        if kernel is None:
            return operator.reference(*arguments, **keywords)
        from ascend_passes.npu.cuda.launch import Defeated

        try:
            return kernel(*arguments, **keywords)
        except Defeated as reason:
            tell_once(operator.name, str(reason))
        return operator.reference(*arguments, **keywords)

    return run


@functools.cache
def tell_once(name: str, reason: str) -> None:
    """Say that calls of an operator run as its reference."""
    log.warning("%s runs as its reference: the kernel does not take %s", name, reason)
