"""ACL graphs of `torch_npu` behind the capture interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ascend_passes.capture.accelerator import Accelerator


def npu() -> Accelerator:
    """The current NPU.

    `auto_dispatch_capture` records attention operators with their host-side sequence lengths, so
    that `update` can change them between replays (`torch_npu/npu/graphs.py`).

    Raises:
        ModuleNotFoundError: `torch_npu` is not installed.
    """
    import torch_npu  # noqa: F401 - makes torch.npu

    module: Any = torch.npu  # type: ignore[attr-defined]
    return Accelerator("npu", module, module.NPUGraph, update, {"auto_dispatch_capture": True})


def update(graph: Any, values: Sequence[Mapping[str, Sequence[int]]]) -> None:
    """Task update: one mapping for all recorded operators, or one for each of them."""
    graph.update(
        cpu_update_input=[{name: list(v) for name, v in mapping.items()} for mapping in values]
    )
