"""int8 of rows with a scale for each, `max |row| / 127`; read in one piece, or twice in blocks."""

import triton
import triton.language as tl

from ascend_passes.npu.kernels.arithmetic import (
    columns_of,
    larger,
    largest_of,
    row_quotient,
    row_scale,
    to_int8,
    write,
)


@triton.jit
def quantize_rows(x, smooth, y, scale, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
                  SMOOTH: tl.constexpr):  # fmt: skip
    """Per-token int8."""
    cols = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = tl.cast(row, tl.int64) * WIDTH
        if BLOCK >= WIDTH:
            values = smoothed(x + at, smooth, cols, WIDTH, BLOCK, SMOOTH)
            found, divisor = row_scale(largest_of(tl.abs(values)))
            write(y + at, cols, to_int8(row_quotient(values, divisor, True)), WIDTH, BLOCK)
        else:
            largest = tl.zeros((BLOCK,), tl.float32)
            for start in range(0, WIDTH, BLOCK):
                values = smoothed(x + at, smooth, start + cols, WIDTH, BLOCK, SMOOTH)
                largest = larger(largest, tl.abs(values))
            found, divisor = row_scale(largest_of(largest))
            for start in range(0, WIDTH, BLOCK):
                values = smoothed(x + at, smooth, start + cols, WIDTH, BLOCK, SMOOTH)
                quantized = to_int8(row_quotient(values, divisor, True))
                write(y + at, start + cols, quantized, WIDTH, BLOCK)
        tl.store(scale + row, found)


@triton.jit
def smoothed(x, smooth, cols, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SMOOTH: tl.constexpr):
    """float32 columns of a row, times their smooth scales where there are some."""
    values = columns_of(x, cols, WIDTH, BLOCK)
    if SMOOTH:
        values = values * columns_of(smooth, cols, WIDTH, BLOCK)
    return values
