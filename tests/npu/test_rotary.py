from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ascend_passes import npu
from ascend_passes.npu import bound
from ascend_passes.npu.accuracy import ROTATION_ERROR
from tests.npu.draw import floats, generator, normal, seeds, tokens

modes = st.sampled_from(("half", "interleave"))
pairs = st.integers(1, 20)


def rotated64(x: Tensor, angles: Tensor, mode: str) -> Tensor:
    """Complex multiplication of the pairs by exp(i angle); angles [..., D/2]."""
    wide = x.double()
    if mode == "half":
        first, second = wide.chunk(2, -1)
    else:
        first, second = wide[..., 0::2], wide[..., 1::2]
    turned = torch.complex(first, second) * angles
    if mode == "half":
        return torch.cat([turned.real, turned.imag], -1)
    return torch.stack([turned.real, turned.imag], -1).flatten(-2)


def tables(source, dtype, mode, *shape):
    """cos and sin of full width, and the complex factor they stand for."""
    angle = 6.3 * torch.rand(shape, generator=source)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    factor = torch.complex(cos.double(), sin.double())
    if mode == "half":
        return torch.cat([cos, cos], -1), torch.cat([sin, sin], -1), factor
    return cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1), factor


def assert_rounded_once(actual: Tensor, exact: Tensor, units: float) -> None:
    """So many units of the result, and float32's error of the two products, which may cancel."""
    allowed = exact.abs() * units * torch.finfo(actual.dtype).eps + ROTATION_ERROR
    assert actual.shape == exact.shape
    assert bool(((actual.double() - exact).abs() <= allowed).all())


@given(seeds, tokens, st.integers(1, 3), pairs, floats, modes)
def test_rotary_mul(seed, rows, heads, half, dtype, mode):
    source = generator(seed)
    x = normal(source, 2, rows, heads, 2 * half, dtype=dtype)
    cos, sin, factor = tables(source, dtype, mode, 1, rows, 1, half)
    y, exact = npu.npu_rotary_mul(x, cos, sin, mode), rotated64(x, factor, mode)
    assert_rounded_once(y, exact, bound("npu_rotary_mul", "y", dtype))


@given(seeds, tokens, st.integers(1, 3), floats)
def test_apply_rotary_pos_emb_writes_its_inputs(seed, rows, heads, dtype):
    source = generator(seed)
    query = normal(source, rows, heads, 64, dtype=dtype)
    key = normal(source, rows, 1, 64, dtype=dtype)
    cos, sin, factor = tables(source, dtype, "half", rows, 1, 32)
    exact = [rotated64(x, factor, "half") for x in (query, key)]
    results = npu.npu_apply_rotary_pos_emb(query, key, cos, sin, "TND")
    for x, result, wanted in zip((query, key), results, exact, strict=True):
        units = bound("npu_apply_rotary_pos_emb", "query and key", dtype)
        assert_rounded_once(x, wanted, units)
        assert torch.equal(result, x)
        assert rows == 0 or result.data_ptr() != x.data_ptr()


@given(seeds, tokens, pairs, floats, modes, st.integers(0, 3))
def test_mrope_of_one_position(seed, rows, half, dtype, mode, beyond):
    source = generator(seed)
    head = 2 * half + beyond
    query = normal(source, rows, 3 * head, dtype=dtype)
    key = normal(source, rows, head, dtype=dtype)
    _, _, factor = tables(source, dtype, mode, 50, half)
    cache = torch.cat([factor.real, factor.imag], -1).to(dtype)
    positions = torch.randint(50, (rows,), generator=source)
    results = npu.npu_mrope(positions, query, key, cache, head, rotary_mode=mode)
    for x, result in zip((query, key), results, strict=True):
        heads = x.unflatten(-1, (-1, head))
        turned = rotated64(heads[..., : 2 * half], factor[positions].unsqueeze(1), mode)
        exact = torch.cat([turned, heads[..., 2 * half :].double()], -1)
        units = bound("npu_mrope", "query and key", dtype)
        assert_rounded_once(result, exact.reshape(x.shape), units)
        assert torch.equal(result.reshape(heads.shape)[..., 2 * half :], heads[..., 2 * half :])


@pytest.mark.parametrize(
    ("cache_mode", "owner"),
    [("default", [0, 0, 1, 1, 2, 2]), ("interleave", [0, 1, 2, 0, 1, 2])],
)
def test_mrope_of_three_positions(cache_mode, owner):
    """Column j of the angle comes from position `owner[j]`."""
    source = generator(torch.seed() % 2**31)
    _, _, factor = tables(source, torch.float32, "half", 50, 6)
    cache = torch.cat([factor.real, factor.imag], -1).float()
    query, key = (torch.randn(4, 12, generator=source) for _ in range(2))
    positions = torch.randint(50, (3, 4), generator=source)
    result, _ = npu.npu_mrope(
        positions, query, key, cache, 12, mrope_section=[2, 2, 2], cache_mode=cache_mode
    )
    chosen = torch.stack([factor[positions[index], j] for j, index in enumerate(owner)], -1)
    units = bound("npu_mrope", "query and key", torch.float32)
    assert_rounded_once(result, rotated64(query, chosen, "half"), units)


def test_what_has_no_reference_is_an_error():
    x = torch.ones(1, 1, 1, 4)
    with pytest.raises(NotImplementedError, match="quarter"):
        npu.npu_rotary_mul(x, x, x, "quarter")
    with pytest.raises(NotImplementedError, match="rotation matrix"):
        npu.npu_rotary_mul(x, x, x, "half", x)
