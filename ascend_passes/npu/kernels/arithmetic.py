"""What the kernels share: reads that mask only where they must, and the int8 rounding."""

import triton
import triton.language as tl

ON_GPU = tl.constexpr(
    "npu" not in triton.backends.backends and "ascend" not in triton.backends.backends
)
"""Whether a division must be asked to round once: a GPU's plain one is two units off."""
SMALLEST_DIVISOR, LARGEST_DIVISOR = tl.constexpr(2.0**-100), tl.constexpr(2.0**100)
"""Between them neither a reciprocal nor what is left of a division overflows or loses bits."""
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
    if ON_GPU:  # the integer stands in the last bits, and a cast takes four times as long as a sum
        return (inside + TIES_TO_EVEN).to(tl.int32, bitcast=True).to(tl.int8)
    else:
        return ((inside + TIES_TO_EVEN) - TIES_TO_EVEN).to(tl.int8)


@triton.jit
def quotient(values, by):
    """float32 quotient, rounded once."""
    if ON_GPU:
        return tl.math.div_rn(values, by)
    else:
        return values / by


@triton.jit
def row_quotient(values, by, FINITE: tl.constexpr):
    """float32 quotients of a row by one number, rounded once.

    On a GPU by the reciprocal, whose error is then taken back (Markstein, IBM Journal of Research
    and Development 34, 1990): a division for each element takes most of a quantize's time. What is
    left of an infinity is no number; with `FINITE` there is none, or the divisor is infinite.
    """
    if ON_GPU:
        if tl.abs(by) >= SMALLEST_DIVISOR and tl.abs(by) <= LARGEST_DIVISOR:
            reciprocal = tl.math.div_rn(1.0, by)
            near = values * reciprocal
            found = tl.fma(tl.fma(-near, by, values), reciprocal, near)
            if not FINITE:
                found = tl.where(tl.abs(near) < LARGEST_DIVISOR, found, near)
        else:
            found = tl.math.div_rn(values, by)
        return found
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
def largest_of(magnitudes):
    """The largest of a row; NaN where one of it is."""
    if ON_GPU:  # its maximum leaves NaN out
        return tl.reduce(magnitudes, 0, larger)
    else:
        return tl.max(magnitudes, 0)


@triton.jit
def silu(gate):
    """`gate * sigmoid(gate)` in float32."""
    return gate / (1.0 + tl.exp(-gate))
