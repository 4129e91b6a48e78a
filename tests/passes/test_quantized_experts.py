"""Experts that are written as floats read back from int8 multiply int8, or stay for a reason."""

from __future__ import annotations

import pytest
import torch

from tests.graphs import reasons
from tests.passes.expert_layer import EXPERTS, WIDTH, Layer, compiled, counts


class Int8Layer(Layer):
    """Rows and weights as int8 numbers times scales; methods are what others do otherwise."""

    def __init__(self, dtype=torch.bfloat16):
        super().__init__(dtype)
        source = torch.Generator().manual_seed(3)
        for name in ("up", "down"):
            shape = getattr(self, name).shape
            numbers = torch.randint(-127, 128, shape, generator=source).to(torch.int8)
            scales = torch.rand(*self.of_columns(shape), generator=source) / 400 + 1e-3
            setattr(self, name, (numbers, scales.to(self.scale_dtype(dtype))))

    def scale_dtype(self, dtype):
        return dtype

    def of_columns(self, shape):
        return (*shape[:2], 1)

    def row_scales(self, rows):
        return rows.float().abs().amax(-1, keepdim=True) / 127

    def rounded(self, rows):
        scales = self.row_scales(rows)
        return ((rows / scales).round().clamp(-128, 127) * scales).to(rows.dtype)

    def read(self, numbers, scales, dtype):
        return numbers.to(dtype) * scales

    def product(self, rows, weights, offsets):
        floats = self.read(*weights, rows.dtype).to(rows.dtype)
        return torch._grouped_mm(self.rounded(rows), floats.mT, offs=offsets)


def fired(report):
    return report.fired.get("quantized_experts", 0)


def test_both_products_take_int8_and_their_scales():
    report = compiled(Int8Layer())
    assert counts(report) == (1, 1, 2, 1)
    assert fired(report) == 2
    after = str(report.graph_after)
    assert after.count("output_dtype = 15") == 2 and after.count("npu_grouped_matmul") >= 2
    assert after.count("npu_swiglu_quant") >= 1
    assert not any(name in after for name in ("aten.round", "aten.amax", "_grouped_mm"))


def test_a_switch_leaves_it_out():
    report = compiled(Int8Layer(), passes="-quantized_experts")
    assert counts(report) == (1, 1, 2, 1)
    assert not fired(report) and "output_dtype" not in str(report.graph_after)


class Turned(Int8Layer):
    """Weights that lie as they are multiplied."""

    def read(self, numbers, scales, dtype):
        lying = numbers.mT.contiguous()
        return (lying.to(dtype) * scales.mT).mT


class WideScales(Int8Layer):
    def scale_dtype(self, dtype):
        return torch.float32


class ScaleOfExpert(Int8Layer):
    def of_columns(self, shape):
        return (EXPERTS, 1, 1)


class ScaleOfRows(Int8Layer):
    """Of the weight's other dim."""

    def of_columns(self, shape):
        return (EXPERTS, 1, shape[2])


class OneScale(Int8Layer):
    def row_scales(self, rows):
        return rows.float().abs().amax() / 127


class ZeroPoint(Int8Layer):
    def read(self, numbers, scales, dtype):
        return (numbers.to(dtype) - 3) * scales


class FloatRows(Int8Layer):
    def rounded(self, rows):
        return rows


STAYS = {
    Turned: (2, ""),
    WideScales: (
        0,
        "the scales of its columns are torch.float32, which torch.bfloat16 would round",
    ),
    ScaleOfExpert: (0, "its weight has no scale of each column alone"),
    ScaleOfRows: (0, "its weight has no scale of each column alone"),
    OneScale: (0, ""),
    ZeroPoint: (0, ""),
    FloatRows: (0, "its weight is int8, but its rows are no int8 with scales"),
}
"""Another spelling -> how many products change, and the reason of those that stay."""


@pytest.mark.parametrize("kind", STAYS, ids=lambda kind: kind.__name__)
def test_other_spellings_change_or_stay_and_are_right(kind):
    number, reason = STAYS[kind]
    report = compiled(kind())
    assert counts(report) == (1, 1, 2, 1)
    assert fired(report) == number
    assert reason in reasons(report)


def test_width_is_that_of_the_layer():
    """So that scales of rows and of columns could be taken for each other."""
    down, scales = Int8Layer().down
    assert down.shape[1:] == (WIDTH, WIDTH) and scales.shape == (EXPERTS, WIDTH, 1)
