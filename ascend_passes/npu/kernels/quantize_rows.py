"""int8 of rows with a scale for each, `max |row| / 127`; read in one piece, or twice in blocks."""

import triton
import triton.language as tl

from ascend_passes.npu.kernels.arithmetic import larger, read, row_scale, to_int8, write


@triton.jit
def quantize_rows(x, smooth, y, scale, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
                  SMOOTH: tl.constexpr):  # fmt: skip
    """Per-token int8."""
    cols = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = row.to(tl.int64) * WIDTH
        largest = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, WIDTH, BLOCK):
            values = smoothed(x + at, smooth, start + cols, WIDTH, BLOCK, SMOOTH)
            largest = larger(largest, tl.abs(values))
        found, divisor = row_scale(tl.max(largest, 0))
        tl.store(scale + row, found)
        for start in range(0, WIDTH, BLOCK):
            values = smoothed(x + at, smooth, start + cols, WIDTH, BLOCK, SMOOTH)
            quantized = to_int8(tl.math.div_rn(values, divisor + tl.zeros_like(values)))
            write(y + at, start + cols, quantized, WIDTH, BLOCK)


@triton.jit
def smoothed(x, smooth, cols, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SMOOTH: tl.constexpr):
    """float32 columns of a row, times their smooth scales where there are some."""
    values = read(x, cols, WIDTH, BLOCK)
    if SMOOTH:
        values = values * read(smooth, cols, WIDTH, BLOCK)
    return values
