from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_passes import npu
from ascend_passes.npu import bound
from ascend_passes.npu.quantize import offset_of_words, scale_of_words
from tests.npu.draw import floats, generator, halves, normal, seeds, tokens
from tests.numerics import lsb_distance, ulp_distance

INT8, QINT8, UINT8, INT32 = 1, 12, 0, 3
widths = st.integers(1, 70)
scales = st.sampled_from((0.03, 0.5, 3.0))


@given(seeds, tokens, widths, floats, scales, st.booleans(), st.sampled_from((INT8, QINT8, UINT8)))
def test_quantize(seed, rows, width, dtype, size, divide, code):
    source = generator(seed)
    x = normal(source, rows, width, dtype=dtype)
    scale = (size * (0.5 + torch.rand(width, generator=source))).float()
    zero = torch.randint(-20, 20, (width,), generator=source).to(torch.int32)
    y = npu.npu_quantize(x, scale, zero, code, -1, divide)
    factor = scale.double()
    exact = (x.double() / factor if divide else x.double() * factor) + zero.double()
    assert y.dtype == (torch.uint8 if code == UINT8 else torch.int8)
    assert lsb_distance(y, exact) <= bound("npu_quantize", "y", dtype)


@given(seeds, st.integers(1, 5), st.integers(1, 5), widths, st.integers(-3, 2))
def test_quantize_along_each_axis(seed, batch, rows, width, axis):
    source = generator(seed)
    x = normal(source, batch, rows, width, dtype=torch.float32)
    scale = 0.05 + torch.rand(x.shape[axis], generator=source)
    zero = torch.randint(-20, 20, scale.shape, generator=source).to(torch.int8)
    y = npu.npu_quantize(x, scale, zero, INT8, axis, True)
    slices = zip(x.unbind(axis), scale, zero, strict=True)
    exact = torch.stack([part.double() / s.double() + z for part, s, z in slices], axis)
    assert lsb_distance(y, exact) <= bound("npu_quantize", "y", torch.float32)


def test_quantize_by_multiplication_takes_the_last_axis_for_the_default_axis():
    x = torch.arange(6.0).reshape(2, 1, 3)
    y = npu.npu_quantize(x, torch.tensor([1.0, 10.0, 20.0]), None, INT8, 1, False)
    assert y.flatten().tolist() == [0, 10, 40, 3, 40, 100]


def test_quantize_ties_clamps_and_no_zero_point():
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, float("nan")]])
    y = npu.npu_quantize(x, torch.ones(1), None, QINT8, -1)
    assert y.tolist() == [[0, 2, 2, 0, -2, 127, -128, 0]]
    wide = npu.npu_quantize(torch.tensor([[3e9, -3e9]]), torch.ones(1), None, INT32, -1)
    assert wide.tolist() == [[2**31 - 1, -(2**31)]]


def test_an_unknown_dtype_code_is_an_error():
    with pytest.raises(ValueError, match="dtype code 285"):
        npu.npu_quantize(torch.ones(1, 1), torch.ones(1), None, 285, -1)


@given(seeds, tokens, widths, halves, st.booleans())
def test_dynamic_quant(seed, rows, width, dtype, smooth):
    source = generator(seed)
    x = normal(source, rows, width, dtype=dtype, spread=5.0)
    factor = normal(source, width, dtype=dtype) if smooth else None
    y, scale = npu.npu_dynamic_quant(x, smooth_scales=factor)
    exact = x.double() * (1 if factor is None else factor.double())
    assert scale.shape == (rows,)
    allowed = bound("npu_dynamic_quant", "scale", dtype)
    assert ulp_distance(scale, exact.abs().amax(-1) / 127) <= allowed
    exact = torch.where(scale == 0, 0.0, exact.T / scale.double()).T
    assert lsb_distance(y, exact) <= bound("npu_dynamic_quant", "y", dtype)
    assert rows == 0 or smooth or int(y.abs().max()) == 127


def test_dynamic_quant_of_tiny_rows():
    y, scale = npu.npu_dynamic_quant(torch.tensor([[1e-30, -4e-30]]).bfloat16())
    assert y.tolist() == [[32, -127]]
    assert 0 < scale[0] < 1e-31


@pytest.mark.parametrize(
    ("mode", "dims", "shape"), [("perchannel", (-2,), (2, 5)), ("pertensor", (0, 1, 2), (1,))]
)
def test_dynamic_quant_modes(mode, dims, shape):
    x = torch.randn(2, 3, 5).bfloat16()
    y, scale = npu.npu_dynamic_quant(x, quant_mode=mode)
    exact = x.double().abs().amax(dims, keepdim=True) / 127
    assert scale.shape == shape
    allowed = bound("npu_dynamic_quant", "scale", torch.bfloat16)
    assert ulp_distance(scale.flatten(), exact.flatten()) <= allowed
    assert lsb_distance(y, x.double() / exact) <= bound("npu_dynamic_quant", "y", torch.bfloat16)


def test_dynamic_quant_of_zero_rows():
    y, scale = npu.npu_dynamic_quant(torch.tensor([[0.0, 0.0], [1.0, -2.0]]).half())
    assert y.tolist() == [[0, 0], [64, -127]]
    assert scale[0] == 0


@given(seeds, widths)
def test_trans_quant_param_cuts_to_19_bits(seed, width):
    scale = torch.rand(width, generator=generator(seed)) * 4
    words = npu.npu_trans_quant_param(scale)
    back = scale_of_words(words)
    assert words.dtype == torch.int64
    assert bool((words >> 46 == 1).all())
    assert bool((back <= scale).all())
    assert bool(((scale.double() - back.double()) < scale.double() * 2.0**-10).all())
    assert not bool((back.view(torch.int32) & 0x1FFF).any())


def test_trans_quant_param_keeps_offsets():
    offset = torch.tensor([-256.0, -1.0, 0.0, 7.0, 255.0, 999.0])
    words = npu.npu_trans_quant_param(torch.ones(6), offset)
    assert offset_of_words(words).tolist() == [-256, -1, 0, 7, 255, 255]
    assert scale_of_words(words).tolist() == [1.0] * 6
