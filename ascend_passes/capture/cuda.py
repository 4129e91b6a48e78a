"""CUDA graphs behind the capture interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ascend_passes.capture.accelerator import Accelerator
from ascend_passes.capture.fault import fault_error


def cuda() -> Accelerator:
    """The current CUDA device; other threads may use CUDA while a step is captured."""
    return Accelerator(
        "cuda",
        torch.cuda,
        torch.cuda.CUDAGraph,
        refuse_update,
        {"capture_error_mode": "thread_local"},
    )


def refuse_update(graph: Any, values: Sequence[Mapping[str, Sequence[int]]]) -> None:
    """Sequence lengths are device tensors on CUDA; a kernel's host-side integers are captured.

    Raises:
        CaptureError: always; capture one graph for each value instead.
    """
    names = ", ".join(sorted({name for mapping in values for name in mapping}))
    raise fault_error("no_update", detail=f"CUDA graphs hold {names} as captured")
