"""Content of inputs, parameters and buffers, by recipe and seed.

`printing` puts this text into a failing program's file, so it imports torch alone.
"""

import math

import torch


def numbers(seed, recipe, shape):
    """float64, int64 or bool values of a recipe; the same for the same seed, recipe and shape."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    even = torch.rand(shape, generator=generator, dtype=torch.float64)
    if recipe == "gain":
        return 1 + 0.2 * normal
    if recipe == "ones":
        return torch.ones(shape, dtype=torch.float64)
    if recipe == "zeros":
        return torch.zeros(shape, dtype=torch.float64)
    if recipe == "small":
        return 0.2 * normal
    if recipe == "weight":
        return normal / math.sqrt(max(shape[-1], 1))
    if recipe == "scale":
        return 0.01 + 0.04 * even
    if recipe == "angles":
        return 3.0 * (even - 0.5)
    if recipe == "cos_sin":
        half = shape[-1] // 2
        angles = 3.0 * (even[..., :half] - 0.5)
        return torch.cat([angles.cos(), angles.sin()], -1)
    if recipe == "int8":
        return (255 * even).floor().to(torch.int64) - 127
    if recipe == "zero_point":
        return (20 * even).floor().to(torch.int64) - 10
    if recipe == "index":
        return (4 * even).floor().to(torch.int64)
    if recipe == "places":
        return torch.argsort(even, -1)
    if recipe == "mask":
        kept = even > 0.4
        if kept.dim() and kept.shape[-1]:
            kept[..., 0] = True
        return kept
    if recipe == "sparse":
        return torch.where(even < 0.3, 0.0, normal)
    if recipe == "normal":
        return normal
    raise ValueError(f"no recipe {recipe!r}")


def laid_out(values, layout):
    """The same values in memory of another layout."""
    if layout == "transposed" and values.dim() > 1:
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "sliced" and values.dim():
        wide = torch.zeros((*values.shape[:-1], values.shape[-1] + 3), dtype=values.dtype)
        wide[..., 2:-1] = values
        return wide[..., 2:-1]
    if layout == "expanded" and values.dim() > 1 and values.shape[0]:
        return values[:1].expand(values.shape)
    if layout == "channels_last" and values.dim() == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values.contiguous()


def make(seed, recipe, shape, stored, dtype, layout="dense"):
    """A tensor of `dtype` whose values `stored` holds exactly."""
    values = numbers(seed, recipe, tuple(shape))
    return laid_out(values.to(stored).to(dtype), layout)
