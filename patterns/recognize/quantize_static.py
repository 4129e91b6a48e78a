"""A row quantized with a stored scale and read back becomes `npu_quantize` and the reading.

compressed-tensors spells int8 activations as divide, clamp, round and multiply. The quantized row
becomes a value of its own; the reading back goes when a quantized matmul takes the row
(`quant_matmul`).

int8 has no NaN: a NaN in x or in the scale is 0 from here on, in every operator that the quantize
is fused into, where the spelled-out form hands it on. The option `keep_nan` keeps that form."""

from ascend_passes import Rule, npu

from ._rows import WIDTHS, Rows, Scale

INT8 = 1  # torch's number for the dtype, which the operator takes


def pattern(x: Rows, scale: Scale):
    rounded = (x / scale).clamp(-128.0, 127.0).round()
    return rounded * scale


def replacement(x, scale):
    return npu.npu_quantize(x, scale, None, INT8, -1, True).to(x.dtype) * scale


# Endless is one LSB of the int8 row: the operator divides in float32.
rule = Rule(pattern, replacement, examples=WIDTHS, hides_nan=True, tolerance=float("inf"))
