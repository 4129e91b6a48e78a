"""Names of process groups, as collectives and as operators give them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ascend_passes import npu
from ascend_passes.distributed import groups
from ascend_passes.distributed.groups import FUNCTIONAL, Group

HCCL = "127.0.0.1%eth0_7"


def test_a_group_is_found_by_its_hccl_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # No NPU is here: torch knows no device "npu", and its group has no HCCL behind it.
    backend = SimpleNamespace(get_hccl_comm_name=lambda rank: HCCL)
    processes = SimpleNamespace(_get_backend=lambda device: backend)
    monkeypatch.setattr(groups, "process_group", lambda name: processes)
    monkeypatch.setattr(groups, "torch", SimpleNamespace(device=str))
    monkeypatch.setattr(groups.distributed_c10d, "get_rank", lambda: 0)
    monkeypatch.setattr(groups, "COMMUNICATORS", {})
    group = Group("7", 4, 1)
    assert groups.communicator(group, "npu") == HCCL
    assert groups.resolve(HCCL, FUNCTIONAL) == group
    arguments = {"x1": torch.ones(4, 8).half(), "x2": torch.ones(8, 4).half(), "hcom": HCCL}
    found = npu.legality("npu_mm_all_reduce_base", arguments, "Ascend910B")
    assert [reason for holds, reason in found if not holds] == []
