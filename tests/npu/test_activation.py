from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ascend_passes import npu
from ascend_passes.npu import bound
from tests.npu.draw import floats, generator, halves, normal, seeds, tokens
from tests.numerics import lsb_distance, ulp_distance

widths = st.integers(1, 40)


def silu64(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gated64(x: Tensor, left: bool = True) -> Tensor:
    first, second = x.double().chunk(2, -1)
    return silu64(first) * second if left else first * silu64(second)


@given(seeds, tokens, widths, floats)
def test_swiglu(seed, rows, width, dtype):
    x = normal(generator(seed), rows, 2 * width, dtype=dtype, spread=4.0)
    y = npu.npu_swiglu(x)
    assert ulp_distance(y, gated64(x)) <= bound("npu_swiglu", "y", dtype)


def test_swiglu_along_another_dim():
    x = torch.randn(4, 6).bfloat16()
    assert torch.equal(npu.npu_swiglu(x, 0), npu.npu_swiglu(x.T, -1).T)


@given(seeds, tokens, widths, floats, st.booleans())
def test_swiglu_quant_per_token(seed, rows, width, dtype, left):
    source = generator(seed)
    x = normal(source, rows, 2 * width, dtype=dtype, spread=3.0)
    smooth = 0.03 + torch.rand(1, width, generator=source)
    y, scale = npu.npu_swiglu_quant(x, smooth_scales=smooth, activate_left=left, quant_mode=1)
    exact = gated64(x, left) * smooth.double()
    largest = exact.abs().amax(-1)
    assert ulp_distance(scale, largest / 127) <= bound("npu_swiglu_quant", "scale", dtype)
    exact = exact / scale.double().unsqueeze(-1)
    assert lsb_distance(y, exact) <= bound("npu_swiglu_quant", "y", dtype)


@given(seeds, tokens, widths, floats, st.booleans())
def test_swiglu_quant_static_multiplies(seed, rows, width, dtype, left):
    source = generator(seed)
    x = normal(source, rows, 2 * width, dtype=dtype)
    smooth = 3 + 30 * torch.rand(1, width, generator=source)
    offset = torch.randint(-30, 30, (1, width), generator=source).float()
    y, scale = npu.npu_swiglu_quant(x, smooth_scales=smooth, offsets=offset, activate_left=left)
    exact = gated64(x, left) * smooth.double() + offset.double()
    assert lsb_distance(y, exact) <= bound("npu_swiglu_quant", "y", dtype)
    assert not scale.any()


@given(seeds, tokens, widths, st.booleans(), st.booleans())
def test_dequant_swiglu_quant_of_int32(seed, rows, width, left, dynamic):
    source = generator(seed)
    x = torch.randint(-5000, 5000, (rows, 2 * width), generator=source).to(torch.int32)
    bias = torch.randint(-900, 900, (2 * width,), generator=source).to(torch.int32)
    weight = 0.003 * torch.rand(1, 2 * width, generator=source)
    token = torch.rand(rows, generator=source)
    size = 0.03 + torch.rand(1, width, generator=source)
    offset = None if dynamic else torch.randint(-9, 9, (1, width), generator=source).float()
    y, scale = npu.npu_dequant_swiglu_quant(
        x,
        weight_scale=weight,
        activation_scale=token,
        bias=bias,
        quant_scale=size,
        quant_offset=offset,
        activate_left=left,
        quant_mode=int(dynamic),
    )
    values = gated64((x + bias).double() * weight.double() * token.double().unsqueeze(-1), left)
    nearest = bound("npu_dequant_swiglu_quant", "y", torch.int32)
    if not dynamic:
        assert offset is not None
        assert lsb_distance(y, values / size.double() + offset.double()) <= nearest
        assert not scale.any()
        return
    values = values * size.double()
    largest = values.abs().amax(-1)
    allowed = bound("npu_dequant_swiglu_quant", "scale", torch.int32)
    assert ulp_distance(scale, largest / 127) <= allowed
    wide = scale.double().unsqueeze(-1)
    assert lsb_distance(y, torch.where(wide == 0, 0.0, values / wide)) <= nearest


@given(seeds, tokens, widths, halves)
def test_dequant_swiglu_quant_of_floats(seed, rows, width, dtype):
    x = normal(generator(seed), rows, 2 * width, dtype=dtype)
    y, scale = npu.npu_dequant_swiglu_quant(x, activate_left=True, quant_mode=1)
    plain = npu.npu_swiglu_quant(x, activate_left=True, quant_mode=1)
    assert torch.equal(y, plain[0])
    assert torch.equal(scale, plain[1])


@pytest.mark.parametrize("name", ["npu_swiglu_quant", "npu_dequant_swiglu_quant"])
def test_groups_are_refused(name):
    with pytest.raises(NotImplementedError):
        npu.call(name, torch.ones(2, 4), group_index=torch.ones(1).long(), quant_mode=1)
