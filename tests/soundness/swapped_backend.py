"""A pytest plugin under which torch's own tests compile with another backend than they name.

`SWAPPED_BACKEND` is the one; each test has `PATIENCE` seconds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import pytest
import torch
import torch._dynamo.backends.registry as registry
import torch._dynamo.testing as dynamo_testing
import torch._inductor.compile_fx as inductor
from torch import fx

BACKEND = os.environ.get("SWAPPED_BACKEND", "aot_eager")
PATIENCE = 60
SWAPPED = ("eager", "eager_noexcept", "aot_eager", "aot_eager_decomp_partition", "inductor")
"""Names that tests give to torch."""
look_up = registry.lookup_backend


def looked_up(name: Any) -> Callable[..., Any]:
    """The backend in the place of the one that a test names."""
    found: Callable[..., Any] = look_up(BACKEND if name in SWAPPED else name)
    return found


def compiled(gm: fx.GraphModule, inputs: Sequence[Any], *_: Any, **__: Any) -> Any:
    """What `compile_fx` and its like give."""
    return look_up(BACKEND)(gm, inputs)


def counted(self: Any, gm: fx.GraphModule, inputs: Sequence[Any]) -> Any:
    """What torch's counting backend does, which runs the graph as it is."""
    self.frame_count += 1
    self.op_count += sum("call" in node.op for node in gm.graph.nodes)
    return compiled(gm, inputs)


def kept(self: Any, gm: fx.GraphModule, inputs: Sequence[Any]) -> Any:
    """What torch's recording backend does, which runs the graph as it is."""
    self.graphs.append(gm)
    self.example_inputs.append(inputs)
    return compiled(gm, inputs)


@torch.compiler.disable
def out_of_patience(_: int, __: FrameType | None) -> None:
    """End a test."""
    raise TimeoutError(f"no end after {PATIENCE} seconds")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """One test, ended where it does not end."""
    signal.signal(signal.SIGALRM, out_of_patience)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)


def pytest_configure() -> None:
    """Swap, before the files are read."""
    for name, module in list(sys.modules.items()):
        if name.startswith("torch.") and vars(module).get("lookup_backend") is look_up:
            module.lookup_backend = looked_up
    for owner, name, new in (
        (torch._TorchCompileInductorWrapper, "__call__", lambda _, gm, given: compiled(gm, given)),
        (inductor, "compile_fx", compiled),
        (dynamo_testing.CompileCounter, "__call__", counted),
        (dynamo_testing.EagerAndRecordGraphs, "__call__", kept),
    ):
        setattr(owner, name, new)
