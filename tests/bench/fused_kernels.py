"""Lets a GPU run one kernel, or few, where an NPU has one: Inductor compiles each reference.

The references are many kernels in a row on a GPU, each of which reads and writes all rows again.
The cost model describes fused operators, and measurements of graphs that it decided on should run
such.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ascend_passes import npu

COMPILED = (
    "npu_add_rms_norm",
    "npu_add_rms_norm_dynamic_quant",
    "npu_all_gather_quant_mm",
    "npu_dynamic_quant",
    "npu_quant_matmul",
    "npu_quant_mm_reduce_scatter",
    "npu_rms_norm",
    "npu_swiglu",
    "npu_swiglu_quant",
)
"""The operators that the rewritten stack of layers consists of."""
VIEWS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)


@functools.cache
def compile_references(device: str, names: tuple[str, ...] = COMPILED) -> torch.library.Library:
    """Replace the kernels of operators by Inductor's of their references, for this process.

    Args:
        device: cuda or cpu.
        names: of operators in the `npu` namespace.

    Returns:
        What keeps the kernels, as the cache does.
    """
    library = torch.library.Library("npu", "FRAGMENT")
    for name in names:
        compiled = torch.compile(npu.OPERATORS[name].reference, fullgraph=True, dynamic=True)
        library.impl(name, below_autograd(compiled), device.upper(), allow_override=True)
    return library


def below_autograd(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that is called in one state alone, whoever calls: Dynamo compiles it once for each.

    A graph's first call and later ones differ in whether autograd's dispatch keys are excluded.
    """

    @functools.wraps(function)
    def kernel(*arguments: Any, **keywords: Any) -> Any:
        with (
            torch.no_grad(),
            torch._C._AutoDispatchBelowAutograd(),
            torch._C._ExcludeDispatchKeyGuard(VIEWS),
        ):
            return function(*arguments, **keywords)

    return kernel
