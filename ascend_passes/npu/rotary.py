"""Rotary position embedding. Float32 inside, one rounding at the end.

`half` pairs column i with column i + D/2, `interleave` pairs 2i with 2i + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ascend_passes.npu.accuracy import CANCELS, ROTATED, ULP, Bound
from ascend_passes.npu.operator import (
    A2,
    A3,
    FLOATS,
    Arguments,
    Conditions,
    Operator,
    all_of,
    empty,
    is_soc,
    require,
    require_absent,
    require_dtype,
)

HALF, INTERLEAVE = "half", "interleave"
ROTARY_MUL_WIDTH = 896
"""Head sizes of `npu_rotary_mul` are below this."""
APPLY_HEAD_SIZES = (64, 128)
"""Head sizes of `npu_apply_rotary_pos_emb` on A2 and A3."""
LAYOUT_RANKS = {"BSND": 4, "TND": 3}
MROPE_MULTIPLE = 32
"""Head and rotary sizes of `npu_mrope` are multiples of this in half mode."""


def rotated(x: Tensor, mode: str) -> Tensor:
    """`[-second, first]` of each pair of columns."""
    if mode == HALF:
        first, second = x.chunk(2, -1)
        return torch.cat([-second, first], -1)
    if mode == INTERLEAVE:
        pairs = x.unflatten(-1, (-1, 2))
        return torch.stack([-pairs[..., 1], pairs[..., 0]], -1).flatten(-2)
    raise NotImplementedError(f"rotary mode {mode!r} has no reference")


def turned(x: Tensor, cos: Tensor, sin: Tensor, mode: str) -> Tensor:
    """`x * cos + rotated(x) * sin`, rounded once."""
    wide = x.float()
    return (wide * cos.float() + rotated(wide, mode) * sin.float()).to(x.dtype)


def rotary_mul(
    input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = HALF, rotate: Tensor | None = None
) -> Tensor:
    """`input * r1 + rotated(input) * r2`; r1 and r2 are cosine and sine of the whole head."""
    if rotate is not None:
        raise NotImplementedError("npu_rotary_mul: a rotation matrix has no reference")
    return turned(input, r1, r2, rotary_mode).contiguous()


def fake_rotary_mul(
    input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = HALF, rotate: Tensor | None = None
) -> Tensor:
    """Shaped like the input."""
    return empty(input, input.shape)


def apply_rotary_pos_emb(
    query: Tensor,
    key: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: str = "BSND",
    rotary_mode: str = HALF,
) -> tuple[Tensor, Tensor]:
    """Rotate query and key in place, as the kernel does, and return them.

    The schema declares no write, so functionalization does not see it: a caller must own query and
    key. The operator's trait `writes` names them. The kernel returns its own arguments; torch
    forbids that where the schema shows no alias, so these results are copies.
    """
    query.copy_(turned(query, cos, sin, rotary_mode))
    key.copy_(turned(key, cos, sin, rotary_mode))
    return query.clone(), key.clone()


def fake_apply_rotary_pos_emb(
    query: Tensor,
    key: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: str = "BSND",
    rotary_mode: str = HALF,
) -> tuple[Tensor, Tensor]:
    """New tensors with the strides of query and key, as torch_npu's own fake has them."""
    return torch.empty_like(query), torch.empty_like(key)


def sections_of(values: Tensor, sections: list[int], cache_mode: str) -> Tensor:
    """One row of cosines per token out of three, [3, T, D/2] to [T, D/2]."""
    if cache_mode == "default":
        parts = values.split(sections, -1)
        return torch.cat([part[index] for index, part in enumerate(parts)], -1)
    chosen = values[0].clone()
    for index in (
        1,
        2,
    ):  # columns 1, 4, 7, ... are of the second position, 2, 5, 8, ... of the third
        columns = slice(index, 3 * sections[index], 3)
        chosen[..., columns] = values[index, ..., columns]
    return chosen


def mrope(
    positions: Tensor,
    query: Tensor,
    key: Tensor,
    cos_sin_cache: Tensor,
    head_size: int,
    *,
    mrope_section: list[int] | None = None,
    rotary_mode: str | None = HALF,
    cache_mode: str | None = "default",
) -> tuple[Tensor, Tensor]:
    """Rotate [T, heads * head_size] by rows of a [cos, sin] cache; columns past rotary_dim stay."""
    mode = rotary_mode or HALF
    cos, sin = cos_sin_cache[positions].chunk(2, -1)
    if mrope_section is not None and any(mrope_section):
        cos = sections_of(cos, mrope_section, cache_mode or "default")
        sin = sections_of(sin, mrope_section, cache_mode or "default")
    if mode == HALF:
        cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
    else:
        cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
    width = cos.shape[-1]

    def turn(x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (-1, head_size))
        turned_part = turned(heads[..., :width], cos.unsqueeze(-2), sin.unsqueeze(-2), mode)
        return torch.cat([turned_part, heads[..., width:]], -1).flatten(-2)

    return turn(query), turn(key)


def fake_mrope(
    positions: Tensor,
    query: Tensor,
    key: Tensor,
    cos_sin_cache: Tensor,
    head_size: int,
    *,
    mrope_section: list[int] | None = None,
    rotary_mode: str | None = HALF,
    cache_mode: str | None = "default",
) -> tuple[Tensor, Tensor]:
    """Shaped like query and key."""
    return empty(query, query.shape), empty(key, key.shape)


def rotary_mul_limits(arguments: Arguments, soc: str) -> Conditions:
    """4-D tensors of one dtype; the head size is even and below 896; r1 and r2 broadcast."""
    x, r1, r2, mode = (arguments[name] for name in ("input", "r1", "r2", "rotary_mode"))
    yield require_dtype("input", x, FLOATS)
    yield mode in (HALF, INTERLEAVE), f"rotary_mode is {mode!r}, not 'half' or 'interleave'"
    yield require_absent(
        "rotate", arguments["rotate"], "the documentation does not say what it does"
    )
    for name, tensor in (("input", x), ("r1", r1), ("r2", r2)):
        yield tensor.dim() == 4, f"{name} has {tensor.dim()} dims but must have 4"
    for name, tensor in (("r1", r1), ("r2", r2)):
        yield require_dtype(name, tensor, (x.dtype,))
        fits = tensor.dim() == x.dim() == 4 and all(
            require(found == wanted, "")[0] or require(found == 1, "")[0]
            for found, wanted in zip(tensor.shape[:-1], x.shape[:-1], strict=True)
        )
        same = fits and require(tensor.shape[-1] == x.shape[-1], "")[0]
        yield (
            same,
            f"{name} has shape {list(tensor.shape)}, which does not broadcast to {list(x.shape)}",
        )
    width = x.shape[-1] if x.dim() else 0
    yield require(
        width < ROTARY_MUL_WIDTH, f"the head size {width} is not below {ROTARY_MUL_WIDTH}"
    )
    yield require(width % 2 == 0, f"the head size {width} is not even")


def apply_rotary_pos_emb_limits(arguments: Arguments, soc: str) -> Conditions:
    """A2 and A3: layouts BSND and TND, half mode, head size 64 or 128, one dtype."""
    query, key, cos, sin = (arguments[name] for name in ("query", "key", "cos", "sin"))
    layout, mode = arguments["layout"], arguments["rotary_mode"]
    yield is_soc(soc, A2, A3), f"the limits on {soc} are not known here"
    yield layout in LAYOUT_RANKS, f"layout is {layout!r}, not 'BSND' or 'TND'"
    yield mode == HALF, f"rotary_mode is {mode!r} but only 'half' is supported"
    rank = LAYOUT_RANKS.get(layout, query.dim())
    yield require_dtype("query", query, FLOATS)
    for name, tensor in (("query", query), ("key", key), ("cos", cos), ("sin", sin)):
        yield tensor.dim() == rank, f"{name} has {tensor.dim()} dims but layout {layout} has {rank}"
        yield require_dtype(name, tensor, (query.dtype,))
    if any(tensor.dim() != rank for tensor in (query, key, cos, sin)):
        return
    width = query.shape[-1]
    known = any(require(width == size, "")[0] for size in APPLY_HEAD_SIZES)
    yield known, f"the head size is {width} but must be 64 or 128"
    tokens = (*query.shape[:-2],)
    for name, tensor, heads in (("key", key, key.shape[-2]), ("cos", cos, 1), ("sin", sin, 1)):
        wanted = (*tokens, heads, width)
        fits = all_of(found == size for found, size in zip(tensor.shape, wanted, strict=True))
        yield fits, f"{name} has shape {list(tensor.shape)} but must have {list(wanted)}"


def mrope_limits(arguments: Arguments, soc: str) -> Conditions:
    """2-D query and key; head and rotary sizes are multiples of 32 in half mode."""
    positions, query, key = (arguments[name] for name in ("positions", "query", "key"))
    cache, head_size, mode = (
        arguments[name] for name in ("cos_sin_cache", "head_size", "rotary_mode")
    )
    sections = arguments["mrope_section"]
    yield require_dtype("query", query, FLOATS)
    for name, tensor in (("query", query), ("key", key), ("cos_sin_cache", cache)):
        yield tensor.dim() == 2, f"{name} has {tensor.dim()} dims but must have 2"
        yield require_dtype(name, tensor, (query.dtype,))
    if any(tensor.dim() != 2 for tensor in (query, key, cache)):
        return
    yield require_dtype("positions", positions, (torch.int32, torch.int64))
    rank = 2 if sections is not None and any(sections) else 1
    yield positions.dim() == rank, f"positions has {positions.dim()} dims but must have {rank}"
    yield mode in (HALF, INTERLEAVE), f"rotary_mode is {mode!r}, not 'half' or 'interleave'"
    width = cache.shape[-1]
    if mode == HALF:
        for name, size in (("head_size", head_size), ("the rotary size", width)):
            yield require(
                size % MROPE_MULTIPLE == 0, f"{name} is {size}, no multiple of {MROPE_MULTIPLE}"
            )
    yield require(width <= head_size, f"the rotary size {width} is over the head size {head_size}")
    for name, tensor in (("query", query), ("key", key)):
        size = tensor.shape[-1]
        yield require(
            size % head_size == 0, f"{name} has {size} columns, no multiple of {head_size}"
        )


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_rotary_mul",
        'npu_rotary_mul(Tensor input, Tensor r1, Tensor r2, str rotary_mode="half",'
        " Tensor? rotate=None) -> Tensor",
        fake_rotary_mul,
        rotary_mul,
        rotary_mul_limits,
        "torch_npu.npu_rotary_mul; aclnnRotaryPositionEmbedding",
        accuracy=(Bound("y", ULP, ROTATED, CANCELS),),
        converter="RotaryMul",
    ),
    Operator(
        "npu_apply_rotary_pos_emb",
        "npu_apply_rotary_pos_emb(Tensor query, Tensor key, Tensor cos, Tensor sin,"
        ' str layout="BSND", str rotary_mode="half") -> (Tensor, Tensor)',
        fake_apply_rotary_pos_emb,
        apply_rotary_pos_emb,
        apply_rotary_pos_emb_limits,
        "torch_npu.npu_apply_rotary_pos_emb; aclnnApplyRotaryPosEmbV2",
        writes=("query", "key"),
        accuracy=(Bound("query and key", ULP, ROTATED, CANCELS),),
        converter="ApplyRotaryPosEmb",
    ),
    Operator(
        "npu_mrope",
        "npu_mrope(Tensor positions, Tensor query, Tensor key, Tensor cos_sin_cache, int head_size,"
        ' *, int[]? mrope_section=None, str? rotary_mode="half", str? cache_mode="default")'
        " -> (Tensor, Tensor)",
        fake_mrope,
        mrope,
        mrope_limits,
        "torch_npu.npu_mrope; aclnnRopeWithSinCosCache",
        accuracy=(Bound("query and key", ULP, ROTATED, CANCELS),),
    ),
)
