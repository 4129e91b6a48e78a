"""What the kernels share: reads that mask only where they must, and the int8 rounding."""

import triton
import triton.language as tl

EXACT = tl.constexpr(
    "npu" not in triton.backends.backends and "ascend" not in triton.backends.backends
)
"""Whether a division must be asked to round once: a GPU's plain one is two units off."""
TIES_TO_EVEN = tl.constexpr(12582912.0)
"""1.5 * 2**23: added to a float32 below 2**22, it leaves no bits behind the point."""


@triton.jit
def columns_of(at, cols, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The columns of a row as float32, zero behind its end."""
    if WIDTH % BLOCK == 0:
        found = tl.load(at + cols)
    else:
        found = tl.load(at + cols, mask=cols < WIDTH, other=0.0)
    return found.to(tl.float32)


@triton.jit
def write(at, cols, values, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Columns of a row, as far as it goes."""
    if WIDTH % BLOCK == 0:
        tl.store(at + cols, values)
    else:
        tl.store(at + cols, values, mask=cols < WIDTH)


@triton.jit
def to_int8(values):
    """float32 to the nearest int8, ties to even, clamped; NaN becomes 0."""
    known = tl.where(values == values, values, 0.0)
    low = tl.maximum(known, -128.0, propagate_nan=tl.PropagateNan.ALL)
    inside = tl.minimum(low, 127.0, propagate_nan=tl.PropagateNan.ALL)
    return ((inside + TIES_TO_EVEN) - TIES_TO_EVEN).to(tl.int8)


@triton.jit
def quotient(values, by):
    """float32 quotient, rounded once."""
    if EXACT:
        return tl.math.div_rn(values, by)
    else:
        return values / by


@triton.jit
def row_scale(largest):
    """`largest / 127`, and what to divide a row by: 1 where all of it is zero."""
    scale = quotient(largest, 127.0)
    return scale, tl.where(scale == 0.0, 1.0, scale)


@triton.jit
def larger(found, value):
    """The larger of two; NaN where one is."""
    return tl.maximum(found, value, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def silu(gate):
    """`gate * sigmoid(gate)` in float32."""
    return gate / (1.0 + tl.exp(-gate))
