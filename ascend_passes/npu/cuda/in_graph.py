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

from ascend_passes.npu import packet
from ascend_passes.npu.activation import DYNAMIC
from ascend_passes.npu.cuda.choose import has_triton, kernel_file, with_kernel
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
GATES = ("npu_swiglu", "npu_swiglu_quant")
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
        return with_kernel(operator)
    if operator.name in WHOLE:
        return launched_or(operator.name, operator, packet(operator.name))
    if operator.name in LONG_ROWS and not (fed_by_loops and operator.name == "npu_dynamic_quant"):
        return launched_or(operator.name, operator, operator.reference)
    return operator.reference


def inlined_pair(gate: Operator, quantize: Operator, device: str) -> Callable[..., Any] | None:
    """What Inductor traces for a quantize of another operator's result, called as that one is; None
    where the two stay two."""
    both = (gate.name, quantize.name)
    if both != ("npu_swiglu", "npu_dynamic_quant") or device != "cuda" or not has_triton():
        return None

    def apart(*arguments: Any, **keywords: Any) -> Any:
        return quantize.reference(gate.reference(*arguments, **keywords))

    return launched_or("swiglu_then_quant", gate, apart)


def is_looped(operator: Operator) -> bool:
    """Whether Inductor computes an operator of elements in a loop: one that finds nothing of a row,
    and has no kernel that is faster."""
    return operator.traceable and operator.name not in (*WHOLE, *WITH_COLLECTIVE, *LONG_ROWS)


def kernel_in_graph(name: str) -> Callable[..., Any]:
    """A kernel by its name, with launches that are nodes of the graph that is traced."""
    from ascend_passes.ir.trace_triton import launch_as_node

    return functools.partial(kernel_file(name).KERNELS[name], launch_as_node)


def launched_or(
    kernel: str, operator: Operator, otherwise: Callable[..., Any]
) -> Callable[..., Any]:
    """Launches of the kernel of this name where all sizes are numbers and it is faster than
    Inductor's loops; else `otherwise`."""

    @functools.wraps(operator.reference)
    def run(*arguments: Any, **keywords: Any) -> Any:
        from ascend_passes.npu.cuda.launch import Defeated

        known = has_known_sizes(arguments, keywords)
        if not known or not kernel_pays(operator.name, arguments[0], keywords):
            return otherwise(*arguments, **keywords)
        try:
            return kernel_in_graph(kernel)(*arguments, **keywords)
        except Defeated:
            return otherwise(*arguments, **keywords)

    return run


def has_known_sizes(*given: Any) -> bool:
    """Whether the sizes of all tensors are numbers."""
    tensors = (leaf for leaf in torch.utils._pytree.tree_leaves(given) if isinstance(leaf, Tensor))
    return all(type(size) is int for tensor in tensors for size in tensor.shape)


def kernel_pays(name: str, rows: Tensor, keywords: Mapping[str, Any]) -> bool:
    """Whether an operator's kernel is faster than Inductor's loops on these rows; of `npu_swiglu`,
    with the quantize behind it."""
    if name in WHOLE:
        return True
    if name == "npu_swiglu_quant" and keywords.get("quant_mode") != DYNAMIC:
        return False  # one loop
    few = name in GATES and math.prod(rows.shape[:-1]) < FEW_ROWS
    return rows.shape[-1] > SHORT_ROW and not few
