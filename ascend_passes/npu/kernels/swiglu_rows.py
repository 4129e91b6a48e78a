"""SwiGLU of rows that hold both halves: plain, and quantized per token or by given scales."""

import triton
import triton.language as tl

from ascend_passes.npu.kernels.arithmetic import (
    columns_of,
    larger,
    largest_of,
    row_quotient,
    row_scale,
    silu,
    to_int8,
    write,
)


@triton.jit
def gated_columns(x, cols, WIDTH: tl.constexpr, BLOCK: tl.constexpr, LEFT: tl.constexpr):
    """float32 `silu(one half) * other half`; the left half is activated with `LEFT`."""
    left = columns_of(x, cols, WIDTH, BLOCK)
    right = columns_of(x + WIDTH, cols, WIDTH, BLOCK)
    if LEFT:
        return silu(left) * right
    else:
        return left * silu(right)


@triton.jit
def smoothed_columns(x, smooth, cols, WIDTH: tl.constexpr, BLOCK: tl.constexpr, LEFT: tl.constexpr,
                     SMOOTH: tl.constexpr, ROUNDED: tl.constexpr):  # fmt: skip
    """Gated columns, times their smooth scales where there are some."""
    values = gated_columns(x, cols, WIDTH, BLOCK, LEFT)
    if ROUNDED:
        values = values.to(x.dtype.element_ty).to(tl.float32)
    if SMOOTH:
        values = values * columns_of(smooth, cols, WIDTH, BLOCK)
    return values


@triton.jit
def swiglu_rows(x, y, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """`silu(first half) * second half`, rounded once."""
    cols = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = tl.cast(row, tl.int64) * WIDTH
        for start in range(0, WIDTH, BLOCK):
            values = gated_columns(x + 2 * at, start + cols, WIDTH, BLOCK, True)
            write(y + at, start + cols, values.to(y.dtype.element_ty), WIDTH, BLOCK)


@triton.jit
def swiglu_rows_dynamic(x, smooth, y, scale, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
                        LEFT: tl.constexpr, SMOOTH: tl.constexpr,
                        ROUNDED: tl.constexpr):  # fmt: skip
    """int8 of SwiGLU and a scale for each row; halves of more than one block are read twice, the
    second time from a cache. With `ROUNDED` what is quantized has the dtype of x."""
    cols = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = tl.cast(row, tl.int64) * WIDTH
        if BLOCK >= WIDTH:
            values = smoothed_columns(x + 2 * at, smooth, cols, WIDTH, BLOCK, LEFT, SMOOTH,
                                      ROUNDED)  # fmt: skip
            found, divisor = row_scale(largest_of(tl.abs(values)))
            write(y + at, cols, to_int8(row_quotient(values, divisor, True)), WIDTH, BLOCK)
        else:
            largest = tl.zeros((BLOCK,), tl.float32)
            for start in range(0, WIDTH, BLOCK):
                at_once = start + cols
                values = smoothed_columns(x + 2 * at, smooth, at_once, WIDTH, BLOCK, LEFT, SMOOTH,
                                          ROUNDED)  # fmt: skip
                largest = larger(largest, tl.abs(values))
            found, divisor = row_scale(largest_of(largest))
            for start in range(0, WIDTH, BLOCK):
                at_once = start + cols
                values = smoothed_columns(x + 2 * at, smooth, at_once, WIDTH, BLOCK, LEFT, SMOOTH,
                                          ROUNDED)  # fmt: skip
                write(y + at, at_once, to_int8(row_quotient(values, divisor, True)), WIDTH, BLOCK)
        tl.store(scale + row, found)


@triton.jit
def swiglu_rows_static(x, scale, zero_point, y, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
                       LEFT: tl.constexpr, ZERO: tl.constexpr, SCALES: tl.constexpr):  # fmt: skip
    """int8 of `SwiGLU * scale + zero_point`, with one scale (`SCALES` is 1) or one a column."""
    cols = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = tl.cast(row, tl.int64) * WIDTH
        for start in range(0, WIDTH, BLOCK):
            values = gated_columns(x + 2 * at, start + cols, WIDTH, BLOCK, LEFT)
            if SCALES == 1:
                values = values * tl.load(scale)
            else:
                values = values * columns_of(scale, start + cols, WIDTH, BLOCK)
            if ZERO:
                if SCALES == 1:
                    values = values + tl.load(zero_point)
                else:
                    values = values + columns_of(zero_point, start + cols, WIDTH, BLOCK)
            write(y + at, start + cols, to_int8(values), WIDTH, BLOCK)
