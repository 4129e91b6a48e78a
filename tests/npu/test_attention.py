"""Attention of a decode step: the reference against torch's own, the kernel against float64."""

from __future__ import annotations

import pytest
import torch

from ascend_passes import npu
from tests.npu.kernel_runs import (
    BRAIN,
    DEVICE,
    HALF,
    INTERPRETED,
    kernel,
    needs_triton,
    normal,
    rounding_interpreter,
    source,
)

__all__ = ["rounding_interpreter", "source"]
FORMS = ((2, 2, 4, 100, 64), (1, 3, 1, 37, 64)) if INTERPRETED else (
    (1, 8, 8, 1024, 128), (3, 8, 8, 1000, 128), (32, 8, 5, 77, 64), (2, 1, 40, 4096, 256)
)  # fmt: skip
"""Sequences, key heads, rows of each, keys, columns."""
KINDS = ("none", "added", "counted", "heads", "lengths", "nothing")
KERNEL_DTYPES = (HALF,) if INTERPRETED else (HALF, BRAIN)
"""The interpreter multiplies the bits of bfloat16."""


def call(source, form, dtype, kind):
    batch, heads, rows, length, size = form
    shapes = (batch, heads, rows, size), *[(batch, heads, length, size)] * 2
    given = [normal(source, *shape, dtype=dtype) for shape in shapes]
    seen = torch.rand(batch, 1, 1, length, generator=source) < 0.6
    masks = {
        "added": torch.where(seen, 0.0, float("-inf")).to(dtype),
        "counted": seen,
        "heads": normal(source, 1, heads, rows, length, dtype=torch.float32),
        "nothing": seen & (torch.arange(batch) > 0).view(-1, 1, 1, 1),
    }
    lengths = torch.randint(1, length + 1, (batch,), generator=source, dtype=torch.int32)
    return given, {"mask": masks.get(kind), "lengths": lengths if kind == "lengths" else None}


def exact(given, mask, lengths):
    """float64 of the result, and of the same with the magnitudes of the values."""
    query, key, value = (t.double() for t in given)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    if lengths is not None:
        place = torch.arange(key.shape[2])
        scores = scores.masked_fill(place >= lengths.view(-1, 1, 1, 1), -torch.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return weights @ value, weights @ value.abs()


def assert_near(found, given, options, rounding):
    """Half a unit, and `rounding` of the weighted magnitudes of the values."""
    value, magnitude = exact(given, **options)
    unit = torch.finfo(found.dtype).eps * torch.exp2(value.abs().clamp(min=1e-30).log2().floor())
    allowed = 0.51 * unit.clamp(min=2.0**-24) + rounding * magnitude
    assert ((found.double() - value).abs() <= allowed).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_the_reference_is_near_float64(source, kind, dtype):
    given, options = call(source, (2, 3, 4, 41, 64), dtype, kind)
    assert_near(npu.decode_attention(*given, **options), given, options, 2.0**-19)


@pytest.mark.parametrize("kind", ["none", "added", "counted", "heads"])
def test_the_reference_is_torchs_of_repeated_heads(source, kind):
    (query, key, value), options = call(source, (2, 3, 4, 41, 64), BRAIN, kind)
    mask = options["mask"]
    if mask is not None:
        mask = mask.expand(2, 3, 4, 41).reshape(2, 12, 1, 41)
        mask = mask if mask.dtype == torch.bool else mask.to(BRAIN)
    plain = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(2, 12, 1, 64), key, value, mask, enable_gqa=True
    )
    found = npu.decode_attention(query, key, value, **options)
    torch.testing.assert_close(found.reshape(plain.shape), plain, atol=2e-2, rtol=2e-2)


def test_an_error_in_a_key_is_seen(source):
    given, options = call(source, (2, 3, 4, 41, 64), BRAIN, "none")
    found = npu.decode_attention(given[0], given[1].roll(1, 2), given[2], **options)
    with pytest.raises(AssertionError):
        assert_near(found, given, options, 2.0**-8)


def on_device(given, options):
    moved = [t.to(DEVICE) for t in given]
    return moved, {key: None if t is None else t.to(DEVICE) for key, t in options.items()}


@needs_triton
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("parts", [None, 1, 4])
def test_the_kernel_is_near_float64(source, form, kind, dtype, parts):
    from ascend_passes.npu.cuda.attention import Split, attended
    from ascend_passes.npu.cuda.launch import launch_now

    given, options = call(source, form, dtype, kind)
    moved, chosen = on_device(given, options)
    split = None if parts is None else Split(32 if INTERPRETED or form[-1] == 256 else 64, parts)
    found = attended(launch_now, *moved, **chosen, split=split).cpu()
    assert_near(found, given, options, 2.0 * torch.finfo(dtype).eps)


@needs_triton
def test_a_cache_that_lies_otherwise_is_read_where_it_lies(source):
    given, options = call(source, FORMS[0], HALF, "added")
    query, key, value = on_device(given, {})[0]
    # As [B, L, heads, D], in a longer buffer.
    apart = [
        torch.cat([t, t], 2).transpose(1, 2).contiguous().transpose(1, 2) for t in (key, value)
    ]
    moved = [t[:, :, : key.shape[2]] for t in apart]
    mask = options["mask"].to(DEVICE)
    found = kernel("decode_attention")(query, *moved, mask)
    assert torch.equal(found, kernel("decode_attention")(query, key, value, mask))
    assert_near(found.cpu(), given, options, 2.0 * torch.finfo(HALF).eps)


@needs_triton
def test_what_the_kernel_does_not_take_is_told(source):
    from ascend_passes.npu.cuda.launch import Defeated

    given, _ = call(source, FORMS[0], HALF, "none")
    with pytest.raises(Defeated, match="float32"):
        kernel("decode_attention")(*(t.float().to(DEVICE) for t in given))


def test_few_heads_are_split_and_many_are_not():
    pytest.importorskip("triton")
    from ascend_passes.npu.cuda.attention import split_for

    assert split_for(8, 1024, 128, 132).parts == 16
    assert split_for(2048, 1024, 128, 132).parts == 1
    assert split_for(8, 32, 128, 132).parts == 1
