"""What Inductor traces for the call of an operator, where there may be a kernel of ours.

A kernel becomes launches of Inductor's own, which cost the host a fifth of a call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.activation import DYNAMIC
from ascend_passes.npu.cuda.choose import has_triton, kernel_file, or_reference
from ascend_passes.npu.operator import Operator

WHOLE = ("npu_quant_matmul", "qk_norm_rope", "decode_attention")
"""Operators whose kernel is faster than what Inductor makes of the reference."""
WITH_COLLECTIVE = ("npu_quant_mm_reduce_scatter", "npu_all_gather_quant_mm")
"""Operators whose kernel is calls of others."""
LONG_ROWS = (
    *("npu_rms_norm", "npu_gemma_rms_norm", "npu_add_rms_norm", "npu_add_rms_norm_quant"),
    *("npu_rms_norm_quant", "npu_add_rms_norm_dynamic_quant", "npu_dynamic_quant"),
    "npu_swiglu_quant",
)
"""Operators that find a sum or a maximum of a row before they write it: our kernels hold the row,
Inductor's loops read it again unless it is short. `tests/bench/long_rows.py` compares them."""
SHORT_ROW = 1024
"""Columns of the longest row that a loop of Inductor's holds, in torch 2.11."""
FEW_ROWS = 16
"""Fewer gated rows are faster by Inductor's loops, which share each among several processors."""


def inlined(operator: Operator, device: str, fed_by_loops: bool) -> Callable[..., Any] | None:
    """What Inductor traces for an operator's calls; None where they stay as they are.

    Args:
        operator: any.
        device: type of the device that runs the graph.
        fed_by_loops: whether Inductor computes the operator's input in loops of its own.
    """
    if not operator.traceable:
        return None
    if device != "cuda" or not has_triton():
        return operator.reference
    if operator.name in WITH_COLLECTIVE:
        return or_reference(operator, lambda: launching(operator))
    if operator.name in WHOLE:
        return launched_or(operator, one_call(operator))
    if operator.name in LONG_ROWS and not (fed_by_loops and operator.name == "npu_dynamic_quant"):
        return launched_or(operator, operator.reference)
    return operator.reference


def launching(operator: Operator) -> Callable[..., Any]:
    """The operator's kernel, with launches that are nodes of the graph that is traced."""
    from ascend_passes.ir.trace_triton import launch_as_node

    return functools.partial(kernel_file(operator.name).KERNELS[operator.name], launch_as_node)


def one_call(operator: Operator) -> Callable[..., Any]:
    """The operator itself."""
    packet: Callable[..., Any] = getattr(getattr(torch.ops, operator.namespace), operator.name)
    return packet


def launched_or(operator: Operator, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel's launches where all sizes are numbers and the kernel is faster; else
    `otherwise`."""

    @functools.wraps(operator.reference)
    def run(*arguments: Any, **keywords: Any) -> Any:
        from ascend_passes.npu.cuda.launch import Defeated

        if not has_known_sizes(arguments, keywords) or not pays(operator, arguments[0], keywords):
            return otherwise(*arguments, **keywords)
        try:
            return launching(operator)(*arguments, **keywords)
        except Defeated:
            return otherwise(*arguments, **keywords)

    return run


def has_known_sizes(*given: Any) -> bool:
    """Whether the sizes of all tensors are numbers."""
    tensors = (leaf for leaf in torch.utils._pytree.tree_leaves(given) if isinstance(leaf, Tensor))
    return all(type(size) is int for tensor in tensors for size in tensor.shape)


def pays(operator: Operator, rows: Tensor, keywords: Mapping[str, Any]) -> bool:
    """Whether the operator's kernel is faster than Inductor's loops on these rows."""
    if operator.name not in LONG_ROWS:
        return True
    if rows.shape[-1] <= SHORT_ROW:
        return False
    if operator.name != "npu_swiglu_quant":
        return True
    return keywords.get("quant_mode") == DYNAMIC and math.prod(rows.shape[:-1]) >= FEW_ROWS
