"""`npu_prefetch`: bring part of a tensor into L2 while other work runs. It computes nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from ascend_passes.npu.operator import Arguments, Conditions, Operator


def check_bytes(max_size: int, offset: int) -> None:
    """Raise RuntimeError for a size or an offset that the operator refuses, in bytes."""
    torch._check(max_size > 0, lambda: f"max_size must be positive, not {max_size}")
    torch._check(offset >= 0, lambda: f"offset must not be negative, but is {offset}")


def checked_prefetch(
    input: Tensor, dependency: Tensor | None, max_size: int, offset: int = 0
) -> None:
    """No result: a host has nothing to prefetch into, and checks the arguments alone."""
    check_bytes(max_size, offset)
    size = input.numel() * input.element_size()
    torch._check(offset < size, lambda: f"offset {offset} is outside a tensor of {size} bytes")


def fake_prefetch(input: Tensor, dependency: Tensor | None, max_size: int, offset: int = 0) -> None:
    """No result."""
    check_bytes(max_size, offset)


def prefetch_limits(arguments: Arguments, soc: str) -> Conditions:
    """A positive size, an offset inside the tensor, and a dependency to order it by."""
    size, offset = arguments["max_size"], arguments["offset"]
    yield size > 0, f"max_size is {size} but must be positive"
    tensor = arguments["input"]
    length = tensor.numel() * tensor.element_size()
    yield bool(0 <= offset < length), f"offset is {offset} but input has {length} bytes"
    given = arguments["dependency"] is not None
    yield given, "no dependency is given, so nothing orders the prefetch in a graph"


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_prefetch",
        "npu_prefetch(Tensor input, Tensor? dependency, int max_size, int offset=0) -> ()",
        fake_prefetch,
        checked_prefetch,
        prefetch_limits,
        "torch_npu.npu_prefetch; aclrtCmoAsync",
        effect=True,
        free=True,
        accuracy="computes nothing",
        converter="Cmo",
    ),
)
