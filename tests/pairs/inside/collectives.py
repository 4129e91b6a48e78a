"""HCCL on the stand-in: the device's memory is the host's, so gloo reduces and gathers it.

Under graph capture a collective is a step of the graph, as any other operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from torch.distributed import ProcessGroup, ProcessGroupGloo
from torch.utils import _pytree as pytree

from tests.conformance.inside import kernels, replay

FORWARDED = (
    *("allreduce", "reduce", "broadcast", "gather", "scatter", "send", "recv"),
    *("allgather", "_allgather_base", "reduce_scatter", "_reduce_scatter_base"),
    *("alltoall", "alltoall_base"),
)


class Done(distributed.Work):
    """What a collective returns: all of them are over by then."""

    def wait(self, timeout: Any = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


class Group(ProcessGroup):
    """A group of ranks whose tensors lie on the stand-in, or on the host."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self.gloo = ProcessGroupGloo(store, rank, size, timeout)
        self.gloo._set_sequence_number_for_group()
        # torch asks the backends of a group for its name.
        self._register_backend(torch.device("cpu"), ProcessGroup.BackendType.GLOO, self.gloo)

    def getBackendName(self) -> str:  # noqa: N802  torch's name for it
        return "hccl"

    def _get_backend(self, device: torch.device) -> Group:
        return self

    def get_hccl_comm_name(self, rank: int, **more: Any) -> str:
        """CANN's name of the communicator; the references of fused operators look for torch's."""
        return str(self.group_name)

    def barrier(self, options: Any = None) -> Done:
        self.gloo.barrier().wait()
        return Done()


def forwarded(name: str) -> Callable[..., Done]:
    """The method that has gloo do it in the tensors' own memory."""

    def method(self: Group, *args: Any) -> Done:
        on_host = pytree.tree_map(kernels.to_host, args)

        def run() -> None:
            getattr(self.gloo, name)(*on_host).wait()

        if replay.RECORDER.recording:
            replay.RECORDER.record(run)
        else:
            run()
        return Done()

    return method


for _name in FORWARDED:
    setattr(Group, _name, forwarded(_name))


def install() -> None:
    """Make the groups that torch_npu would ask HCCL for."""

    def made(options: Any, more: Any) -> Group:
        return Group(options.store, options.group_rank, options.group_size, options.timeout)

    distributed.Backend._plugins["HCCL"] = distributed.Backend._BackendPlugin(made, True)
