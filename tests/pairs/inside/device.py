"""vllm-ascend's device on the stand-in: its operators compute, HCCL is gloo, Triton is the host.

Call `install` before vLLM makes a worker; the rest of the process then runs vllm-ascend as it is.
"""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable
from typing import Any

import torch_npu  # noqa: F401  the device
from torch import Tensor

from ascend_passes import npu
from tests.conformance.inside import attention, kernels, replay
from tests.pairs.inside import collectives, operators

PADDED = -1
"""The slot of a token that is none."""


class SlotMapping:
    """vLLM's Triton kernel that says in which slot of the cache each token goes, on the host."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.launch

    def launch(
        self,
        tokens: int,
        most_tokens: int,
        starts: Tensor,
        positions: Tensor,
        blocks: Tensor,
        row: int,
        block_size: int,
        slots: Tensor,
        **constants: Any,
    ) -> None:
        """Writes `slots` in place: block number times block size, and the place in the block."""
        starts, positions, blocks, slots = map(kernels.to_host, (starts, positions, blocks, slots))
        slots[tokens:most_tokens] = PADDED
        for request, (start, end) in enumerate(itertools.pairwise(starts.tolist())):
            place = positions[start:end]
            numbers = blocks[request, place // block_size].long()
            slots[start:end] = (numbers * block_size + place % block_size).to(slots.dtype)


def install() -> replay.Recorder:
    """Everything that a worker of vllm-ascend needs from CANN and has not here.

    Returns:
        The recorder that replays captured graphs.
    """
    runtime = types.ModuleType("acl.rt")
    runtime.memcpy = None  # type: ignore[attr-defined]  sleep mode alone calls it
    sys.modules.update({"acl": types.ModuleType("acl"), "acl.rt": runtime})
    sys.modules["acl"].rt = runtime  # type: ignore[attr-defined]
    collectives.install()
    import vllm_ascend.vllm_ascend_C  # noqa: F401  its operators' schemas
    from vllm_ascend.ops.triton.linearnorm import split_qkv_rmsnorm_rope  # noqa: F401  another

    ours = {one.qualified_name: one.reference for one in npu.OPERATORS.values()}
    recorder = kernels.install({**ours, **attention.REFERENCES, **operators.REFERENCES})
    from vllm.v1.worker import block_table

    block_table._compute_slot_mapping_kernel = SlotMapping()
    return recorder
