"""The norm and rotation of packed heads: the reference against the operators that it stands for,
the kernel against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ascend_passes import npu
from ascend_passes.npu.accuracy import ROTATION_ERROR, TWO_ROUNDINGS
from tests.npu.kernel_runs import (
    BRAIN,
    HALVES,
    INTERPRETED,
    SINGLE,
    gains,
    needs_triton,
    normal,
    rounding_interpreter,
    run,
    source,
)

__all__ = ["rounding_interpreter", "source"]
TOKENS = 6
FORMS = ((4, 2, 64), (3, 1, 16)) if INTERPRETED else ((64, 8, 128), (8, 1, 128), (40, 8, 64))
"""Query heads, key heads, columns of each."""


def call(source, form, dtype, rows=TOKENS, gain=None):
    """The arguments of a call whose rows hold values behind the keys."""
    queries, keys, size = form
    angle = 6 * torch.rand(rows, 1, size, generator=source)
    return (
        normal(source, TOKENS, (queries + 2 * keys) * size, dtype=dtype),
        *(gains(source, size, gain or dtype) for _ in range(2)),
        *(angle.cos().to(dtype), angle.sin().to(dtype), queries, keys, 1e-6),
    )


def heads(arguments):
    """The packed query and key heads, each with its gain."""
    qkv, *both, cos, _, queries, keys, _ = arguments
    size = cos.shape[-1]
    parts = qkv[:, : (queries + keys) * size].split([queries * size, keys * size], -1)
    return [(part.unflatten(-1, (-1, size)), gain) for part, gain in zip(parts, both, strict=True)]


def apart(arguments, dtype=None):
    """The operators that it stands for, one after the other."""
    *_, cos, sin, _, _, epsilon = arguments
    repeat = TOKENS // cos.shape[0]
    tables = [table.repeat(repeat, 1, 1).unsqueeze(0) for table in (cos, sin)]
    normed = (npu.npu_rms_norm(part, gain, epsilon)[0] for part, gain in heads(arguments))
    return [npu.npu_rotary_mul(part.unsqueeze(0), *tables).squeeze(0) for part in normed]


def unit(values: Tensor, dtype: torch.dtype) -> Tensor:
    """One in the last place of each value."""
    return torch.finfo(dtype).eps * torch.exp2(values.abs().clamp(min=2.0**-30).log2().floor())


def exact(arguments):
    """Float64 of both results, and how far from it a result may be."""
    *_, cos, sin, _, _, epsilon = arguments
    cos, sin = (t.double().repeat(TOKENS // cos.shape[0], 1, 1) for t in (cos, sin))
    for part, gain in heads(arguments):
        wide = part.double()
        normed = wide / (wide.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * gain.double()
        low, high = normed.chunk(2, -1)
        value = normed * cos + torch.cat([-high, low], -1) * sin
        slack = TWO_ROUNDINGS * unit(normed, part.dtype)
        low, high = slack.chunk(2, -1)
        through = slack * cos.abs() + torch.cat([high, low], -1) * sin.abs()
        yield value, 0.5 * unit(value.abs() + through, part.dtype) + through + ROTATION_ERROR


def assert_near(found, arguments):
    for one, (value, allowed) in zip(found, exact(arguments), strict=True):
        assert ((one.double() - value).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", (*HALVES, SINGLE))
@pytest.mark.parametrize("rows", [TOKENS, 3, 1])
def test_the_reference_is_the_operators_one_after_the_other(source, dtype, rows):
    arguments = call(source, (4, 2, 64), dtype, rows)
    found = npu.qk_norm_rope(*arguments)
    assert all(map(torch.equal, found, apart(arguments)))
    assert [tuple(one.shape) for one in found] == [(TOKENS, 4, 64), (TOKENS, 2, 64)]
    assert_near(found, arguments)


def test_a_result_that_is_off_is_seen(source):
    arguments = call(source, (4, 2, 64), BRAIN)
    with pytest.raises(AssertionError):
        assert_near([1.02 * one for one in npu.qk_norm_rope(*arguments)], arguments)


def test_leading_dims_stay(source):
    arguments = call(source, (4, 2, 64), BRAIN, 3)
    packed = arguments[0].unflatten(0, (2, 3))
    for one, flat in zip(
        npu.qk_norm_rope(packed, *arguments[1:]), npu.qk_norm_rope(*arguments), strict=True
    ):
        assert torch.equal(one.flatten(0, 1), flat)


@needs_triton
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rows", [TOKENS, 3, 1])
@pytest.mark.parametrize("gain", [None, SINGLE])
def test_the_kernel_is_near_float64(source, form, dtype, rows, gain):
    arguments = call(source, form, dtype, rows, gain)
    assert_near(run("qk_norm_rope", *arguments), arguments)


@needs_triton
def test_an_unaligned_view_runs_as_the_reference(source):
    from ascend_passes.npu.cuda.launch import Defeated

    qkv, *rest = call(source, (4, 2, 64), BRAIN)
    with pytest.raises(Defeated, match="strides"):
        run("qk_norm_rope", qkv.t().contiguous().t(), *rest)
