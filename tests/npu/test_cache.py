from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_passes import npu
from tests.npu.draw import generator, seeds, tokens

BLOCKS, BLOCK_SIZE, HEADS, HEAD = 3, 4, 2, 16


def slots_of(source, rows, padded, dtype):
    """Distinct slots; a number of them at random places are -1."""
    slots = torch.randperm(BLOCKS * BLOCK_SIZE, generator=source)[:rows].to(dtype)
    slots[torch.randperm(rows, generator=source)[:padded]] = -1
    return slots


def expected(cache, rows, slots):
    """One token after the other, in a [blocks, block_size, heads, D] cache."""
    result = cache.clone()
    for row, slot in zip(rows, slots.tolist(), strict=True):
        if slot >= 0:
            result[slot // BLOCK_SIZE, slot % BLOCK_SIZE] = row
    return result


def operands(seed, rows, padded, dtype):
    source = generator(seed)
    key, value = (torch.randn(rows, HEADS, HEAD, generator=source) for _ in range(2))
    both = torch.randn(BLOCKS, 2, BLOCK_SIZE, HEADS, HEAD, generator=source)
    slots = slots_of(source, rows, min(padded, rows), dtype)
    return key.half(), value.half(), both[:, 0].half(), both.half()[:, 1], slots


@given(seeds, tokens, st.integers(0, 9), st.booleans())
def test_caches_are_written_in_place(seed, rows, padded, atb):
    key, value, key_cache, value_cache, slots = operands(seed, rows, padded, torch.int32)
    wanted = expected(key_cache, key, slots), expected(value_cache, value, slots)
    if atb:
        npu._npu_reshape_and_cache(key, value, key_cache, value_cache, slots)
    else:
        npu.npu_scatter_pa_kv_cache(key, value, key_cache, value_cache, slots, cache_mode="Norm")
    assert torch.equal(key_cache, wanted[0])
    assert torch.equal(value_cache, wanted[1])


@given(seeds, tokens, st.integers(0, 9))
def test_blocked_caches(seed, rows, padded):
    key, value, key_cache, value_cache, slots = operands(seed, rows, padded, torch.int64)
    wanted = expected(key_cache, key, slots), expected(value_cache, value, slots)

    def blocked(cache):
        return cache.reshape(BLOCKS, BLOCK_SIZE, -1, 16).transpose(1, 2).contiguous()

    caches = blocked(key_cache), blocked(value_cache)
    npu.npu_scatter_pa_kv_cache(key, value, *caches, slots)
    assert torch.equal(caches[0], blocked(wanted[0]))
    assert torch.equal(caches[1], blocked(wanted[1]))


def test_compressed_caches_are_refused():
    key, value, key_cache, value_cache, slots = operands(0, 2, 0, torch.int32)
    with pytest.raises(NotImplementedError, match="compressed"):
        npu.npu_scatter_pa_kv_cache(
            key, value, key_cache, value_cache, slots, seq_lens=slots, cache_mode="Norm"
        )
