"""Runs our kernels for tests: on a GPU, or in Triton's interpreter, which rounds as they do."""

from __future__ import annotations

import importlib.util
import os
import zlib

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(
    not HAS_TRITON or not (INTERPRETED or torch.cuda.is_available()),
    reason="needs triton, and a GPU or TRITON_INTERPRET=1",
)
DEVICE = "cpu" if INTERPRETED else "cuda"
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
HALVES = (HALF, BRAIN)


@pytest.fixture
def source(request):
    name = request.node.name.encode()
    return torch.Generator().manual_seed(zlib.crc32(name) ^ torch.initial_seed() % 1000)


@pytest.fixture(autouse=True, scope="module")
def rounding_interpreter():
    """Triton's interpreter cuts float32 off to bfloat16 and rounds a product in front of its sum;
    compiled kernels round half to even, and once."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain, plain_fma = InterpreterBuilder.create_fp_trunc, InterpreterBuilder.create_fma

    def rounded(self, values, dtype):
        if dtype.scalar != tl.bfloat16 or values.dtype.scalar != tl.float32:
            return plain(self, values, dtype)
        wide = torch.from_numpy(values.data)
        return TensorHandle(wide.to(BRAIN).view(torch.uint16).numpy(), tl.bfloat16)

    def fused(self, x, y, z):
        exact = x.data.astype("float64") * y.data.astype("float64") + z.data.astype("float64")
        return TensorHandle(exact.astype(x.data.dtype), x.dtype)

    InterpreterBuilder.create_fp_trunc, InterpreterBuilder.create_fma = rounded, fused
    yield
    InterpreterBuilder.create_fp_trunc, InterpreterBuilder.create_fma = plain, plain_fma


def kernel(name):
    from ascend_passes.npu.cuda.choose import kernel_of

    found = kernel_of(name)
    assert found is not None
    return found


def run(name, *arguments, **keywords):
    """The kernel itself, never its reference; the results are on the CPU."""
    moved = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(DEVICE), (arguments, keywords))
    with torch.no_grad():
        found = kernel(name)(*moved[0], **moved[1])
    return torch.utils._pytree.tree_map_only(Tensor, Tensor.cpu, found)


def normal(source, *shape, dtype, spread=1.0):
    return (spread * torch.randn(*shape, generator=source)).to(dtype)


def gains(source, width, dtype):
    return (1 + 0.2 * torch.randn(width, generator=source)).to(dtype)
