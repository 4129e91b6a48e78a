"""Writes of new keys and values into a paged KV cache, in place. Slot -1 is a padded token."""

from __future__ import annotations

import torch
from torch import Tensor

from ascend_passes.npu.operator import (
    Arguments,
    Conditions,
    Operator,
    all_of,
    require_absent,
    require_dtype,
)

BLOCKED, PLAIN = "PA_NZ", "Norm"
"""Cache layouts: [blocks, heads * D / c, block_size, c], and [blocks, block_size, heads, D]."""
CACHE_DTYPES = (torch.float16, torch.bfloat16, torch.int8)
INDEX_DTYPES = (torch.int32, torch.int64)
COLUMN_BYTES = 32
"""Bytes of the last dim of a PA_NZ cache."""


def write_slots(rows: Tensor, cache: Tensor, slots: Tensor) -> None:
    """Write row i to slot `slots[i]` of a [blocks, block_size, ...] cache; slots < 0 write nothing.

    No host sync, so that a device graph can hold it: a padded token repeats the write of the token
    with the largest slot, and where all are padded, slot 0 gets its own content.
    """
    if rows.shape[0] == 0:
        return
    block_size = cache.shape[1]
    last = slots.argmax()
    slot = slots[last].clamp(min=0)
    content = torch.where(slots[last] < 0, cache[slot // block_size, slot % block_size], rows[last])
    padded = slots < 0
    target = torch.where(padded, slot, slots).long()
    values = torch.where(padded.reshape(-1, *(1 for _ in rows.shape[1:])), content, rows)
    cache.index_put_((target // block_size, target % block_size), values)


def reshape_and_cache(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_indices: Tensor
) -> None:
    """Write [T, heads, D] keys and values into [blocks, block_size, heads, D] caches."""
    write_slots(key, key_cache, slot_indices)
    write_slots(value, value_cache, slot_indices)


def scatter_pa_kv_cache(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    *,
    compress_lens: Tensor | None = None,
    compress_seq_offsets: Tensor | None = None,
    seq_lens: Tensor | None = None,
    cache_mode: str | None = BLOCKED,
) -> None:
    """Write [T, heads, D] keys and values into caches of either layout."""
    if compress_lens is not None or compress_seq_offsets is not None or seq_lens is not None:
        raise NotImplementedError("npu_scatter_pa_kv_cache: compressed caches have no reference")
    for rows, cache in ((key, key_cache), (value, value_cache)):
        if (cache_mode or BLOCKED) == PLAIN:
            write_slots(rows, cache, slot_mapping)
        else:
            columns = rows.reshape(rows.shape[0], cache.shape[1], cache.shape[3])
            write_slots(columns, cache.transpose(1, 2), slot_mapping)


def fake_write(*_: object, **__: object) -> None:
    """No result."""


def cache_pair_limits(arguments: Arguments, slots: Tensor) -> Conditions:
    """3-D key and value of one dtype with their caches; one slot per token."""
    key = arguments["key"]
    yield require_dtype("key", key, CACHE_DTYPES)
    yield require_dtype("slots", slots, INDEX_DTYPES)
    for name in ("key", "value"):
        rows, cache = arguments[name], arguments[f"{name}_cache"]
        yield rows.dim() == 3, f"{name} has {rows.dim()} dims but must have 3"
        yield cache.dim() == 4, f"{name}_cache has {cache.dim()} dims but must have 4"
        yield require_dtype(name, rows, (key.dtype,))
        yield require_dtype(f"{name}_cache", cache, (rows.dtype,))
    fits = slots.dim() == 1 and all_of(iter((slots.shape[0] == key.shape[0],)))
    yield fits, f"slots has shape {list(slots.shape)} but must have one entry per token"


def reshape_and_cache_limits(arguments: Arguments, soc: str) -> Conditions:
    """int32 slots; the caches have the heads and head size of key and value."""
    yield from cache_pair_limits(arguments, arguments["slot_indices"])
    yield require_dtype("slot_indices", arguments["slot_indices"], (torch.int32,))
    yield from plain_limits(arguments)


def plain_limits(arguments: Arguments) -> Conditions:
    """[blocks, block_size, heads, D] caches."""
    for name in ("key", "value"):
        rows, cache = arguments[name].shape[1:], arguments[f"{name}_cache"].shape[2:]
        fits = len(rows) == len(cache) and all_of(a == b for a, b in zip(rows, cache, strict=True))
        yield fits, f"{name}_cache ends in {list(cache)} but {name} has {list(rows)} per token"


def scatter_pa_kv_cache_limits(arguments: Arguments, soc: str) -> Conditions:
    """PA_NZ caches have 32 bytes in the last dim; no compression."""
    yield from cache_pair_limits(arguments, arguments["slot_mapping"])
    for name in ("compress_lens", "compress_seq_offsets", "seq_lens"):
        yield require_absent(name, arguments[name], "compressed caches are not supported")
    mode = arguments["cache_mode"] or BLOCKED
    yield mode in (BLOCKED, PLAIN), f"cache_mode is {mode!r}, not 'PA_NZ' or 'Norm'"
    if mode == PLAIN:
        yield from plain_limits(arguments)
        return
    for name in ("key", "value"):
        rows, cache = arguments[name], arguments[f"{name}_cache"]
        if rows.dim() != 3 or cache.dim() != 4:
            return
        last = COLUMN_BYTES // cache.element_size()
        fits = all_of(
            iter((cache.shape[3] == last, cache.shape[1] * last == rows.shape[1] * rows.shape[2]))
        )
        yield (
            fits,
            f"{name}_cache has shape {list(cache.shape)}, no PA_NZ cache of {list(rows.shape)}",
        )


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_scatter_pa_kv_cache",
        "npu_scatter_pa_kv_cache(Tensor key, Tensor value, Tensor(a!) key_cache,"
        " Tensor(b!) value_cache, Tensor slot_mapping, *, Tensor? compress_lens=None,"
        " Tensor? compress_seq_offsets=None, Tensor? seq_lens=None,"
        ' str? cache_mode="PA_NZ") -> ()',
        fake_write,
        scatter_pa_kv_cache,
        scatter_pa_kv_cache_limits,
        "torch_npu.npu_scatter_pa_kv_cache; aclnnScatterPaKvCache",
        accuracy="copies bits",
    ),
    Operator(
        "_npu_reshape_and_cache",
        "_npu_reshape_and_cache(Tensor key, Tensor value, Tensor(a!) key_cache,"
        " Tensor(b!) value_cache, Tensor slot_indices) -> ()",
        fake_write,
        reshape_and_cache,
        reshape_and_cache_limits,
        "torch_npu.atb._npu_reshape_and_cache; ATB ReshapeAndCacheOperation",
        namespace="atb",
        accuracy="copies bits",
    ),
)
