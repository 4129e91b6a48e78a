"""RMSNorm of rows, behind a residual add or alone: plain, and quantized in one reading.

`ROUNDED` is set where the input is float16: its product with the gain is then float16's, as on
Atlas A2; otherwise it stays float32 in front of a quantize.
"""

import triton
import triton.language as tl

from ascend_passes.npu.kernels.arithmetic import (
    columns_of,
    largest_of,
    quotient,
    row_quotient,
    row_scale,
    to_int8,
    write,
)


@triton.jit
def summed(x, residual, total, row, cols, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
           ADD: tl.constexpr):  # fmt: skip
    """A row as float32; with `ADD` the rounded sum with the residual, which is stored as well."""
    at = tl.cast(row, tl.int64) * WIDTH
    values = columns_of(x + at, cols, WIDTH, BLOCK)
    if ADD:
        rounded = (values + columns_of(residual + at, cols, WIDTH, BLOCK)).to(x.dtype.element_ty)
        write(total + at, cols, rounded, WIDTH, BLOCK)
        values = rounded.to(tl.float32)
    return values


@triton.jit
def reciprocal_root(values, epsilon, WIDTH: tl.constexpr):
    """`1 / sqrt(mean square + epsilon)` of a row whose end is padded with zeros."""
    epsilon = tl.cast(epsilon, tl.float32)  # Inductor's launches hand on a Python float as float64
    return quotient(1.0, tl.sqrt(tl.sum(values * values, 0) / WIDTH + epsilon))


@triton.jit
def gained(values, gamma, beta, cols, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
           ROUNDED: tl.constexpr, SHIFT: tl.constexpr):  # fmt: skip
    """float32 of what a fused quantize sees: `values * gamma + beta`."""
    gain = columns_of(gamma, cols, WIDTH, BLOCK)
    if ROUNDED:
        values = (values.to(tl.float16).to(tl.float32) * gain).to(tl.float16).to(tl.float32)
        if SHIFT:
            shifted = values + columns_of(beta, cols, WIDTH, BLOCK)
            values = shifted.to(tl.float16).to(tl.float32)
    else:
        values = values * gain
        if SHIFT:
            values = values + columns_of(beta, cols, WIDTH, BLOCK)
    return values


@triton.jit
def norm_rows(x, residual, gamma, y, rstd, total, rows, epsilon, WIDTH: tl.constexpr,
              BLOCK: tl.constexpr, ADD: tl.constexpr, ONE_PLUS: tl.constexpr,
              SAME: tl.constexpr):  # fmt: skip
    """RMSNorm. With `ONE_PLUS` the gain is `1 + gamma`; with `SAME` gamma has the dtype of x, and
    the normalized row is rounded before the product."""
    cols = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        values = summed(x, residual, total, row, cols, WIDTH, BLOCK, ADD)
        root = reciprocal_root(values, epsilon, WIDTH)
        tl.store(rstd + row, root)
        gain = columns_of(gamma, cols, WIDTH, BLOCK)
        normed = values * root
        if ONE_PLUS:
            gain = gain + 1.0
        if SAME:
            normed = normed.to(x.dtype.element_ty).to(tl.float32)
        at = y + tl.cast(row, tl.int64) * WIDTH
        write(at, cols, (normed * gain).to(y.dtype.element_ty), WIDTH, BLOCK)


@triton.jit
def norm_rows_static(x, residual, gamma, beta, scale, zero_point, y, total, rows, epsilon,
                     WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr,
                     SHIFT: tl.constexpr, ROUNDED: tl.constexpr, DIVIDE: tl.constexpr,
                     ZERO: tl.constexpr, SCALES: tl.constexpr):  # fmt: skip
    """int8 of RMSNorm by a given scale: one (`SCALES` is 1), or one for each column."""
    cols = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        values = summed(x, residual, total, row, cols, WIDTH, BLOCK, ADD)
        values = values * reciprocal_root(values, epsilon, WIDTH)
        values = gained(values, gamma, beta, cols, WIDTH, BLOCK, ROUNDED, SHIFT)
        if SCALES == 1:
            factor = tl.load(scale).to(tl.float32)
            values = row_quotient(values, factor, False) if DIVIDE else values * factor
        else:
            # What stands behind the row's end is divided as well, and never stored.
            factor = columns_of(scale, cols, WIDTH, BLOCK)
            values = quotient(values, factor) if DIVIDE else values * factor
        if ZERO:
            if SCALES == 1:
                values = values + tl.load(zero_point).to(tl.float32)
            else:
                values = values + columns_of(zero_point, cols, WIDTH, BLOCK)
        write(y + tl.cast(row, tl.int64) * WIDTH, cols, to_int8(values), WIDTH, BLOCK)


@triton.jit
def norm_rows_dynamic(x, residual, gamma, beta, smooth, y, scale, total, rows, epsilon,
                      WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr,
                      SHIFT: tl.constexpr, ROUNDED: tl.constexpr,
                      SMOOTH: tl.constexpr):  # fmt: skip
    """int8 of RMSNorm and a scale for each row."""
    cols = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        values = summed(x, residual, total, row, cols, WIDTH, BLOCK, ADD)
        values = values * reciprocal_root(values, epsilon, WIDTH)
        values = gained(values, gamma, beta, cols, WIDTH, BLOCK, ROUNDED, SHIFT)
        if SMOOTH:
            values = values * columns_of(smooth, cols, WIDTH, BLOCK)
        found, divisor = row_scale(largest_of(tl.abs(values)))
        tl.store(scale + row, found)
        quantized = to_int8(row_quotient(values, divisor, True))
        write(y + tl.cast(row, tl.int64) * WIDTH, cols, quantized, WIDTH, BLOCK)
