"""Rows as int8 numbers, by a scale that is stored or by each row's largest number.

Results of a stored scale are the int8 rows; of a scale of rows the scale comes behind them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.recognition.spelled.table import BF16, F32, Table, normal, put_all

H, SCALE, INT8 = 64, 0.0234375, torch.int8
RIGHT: Table = {}


def rows_and_scale(kind, tokens):
    return normal(tokens, H, kind=kind), torch.tensor(SCALE, dtype=kind)


def row_of_scale(kind, tokens):
    return normal(tokens, H, kind=kind), torch.tensor([SCALE], dtype=kind)


def sequences_and_scale(kind, tokens):
    return normal(2, tokens, H, kind=kind), torch.tensor([[SCALE]], dtype=kind)


def scale_and_offset(kind, tokens):
    return *rows_and_scale(kind, tokens), torch.tensor(3.0, dtype=kind)


def scale_and_int8_offset(kind, tokens):
    return *rows_and_scale(kind, tokens), torch.tensor(3, dtype=INT8)


def reciprocal_scale(kind, tokens):
    return normal(tokens, H, kind=kind), torch.tensor(1 / SCALE, dtype=kind)


def rows(kind, tokens):
    return (normal(tokens, H, kind=kind),)


def sequences(kind, tokens):
    return (normal(2, tokens, H, kind=kind),)


def narrow(v: Tensor) -> Tensor:
    """int8 numbers of scaled rows."""
    return torch.clamp(torch.round(v), -128, 127).to(INT8)


STORED = {
    "round and clamp": lambda x, s: (x / s).round().clamp(-128, 127).to(INT8),
    "clamp and round": lambda x, s: (x / s).clamp(-128, 127).round().to(INT8),
    "by the reciprocal": lambda x, s: narrow(x * s.reciprocal()),
    "by one over": lambda x, s: narrow(x * (1.0 / s)),
    "by a power": lambda x, s: narrow(x * s**-1),
    "torch.div": lambda x, s: narrow(torch.div(x, s)),
    "wide": lambda x, s: narrow(x.float() / s.float()),
    "two clamps": lambda x, s: torch.round(x / s).clamp_min(-128).clamp_max(127).to(INT8),
    "clip": lambda x, s: torch.clip(torch.round(x / s), -128, 127).to(INT8),
    "bounds of the dtype": lambda x, s: (
        (x / s).round().clamp(torch.iinfo(INT8).min, torch.iinfo(INT8).max).to(INT8)
    ),
    "maximum and minimum": lambda x, s: torch.minimum(
        torch.maximum((x / s).round(), x.new_full((), -128)), x.new_full((), 127)
    ).to(INT8),
    "half up": lambda x, s: torch.clamp(torch.floor(x / s + 0.5), -128, 127).to(INT8),
    "by int32": lambda x, s: (x / s).round().clamp(-128, 127).to(torch.int32).to(INT8),
}
put_all(RIGHT, STORED, rows_and_scale, "quantize_static", kept=1)
put_all(
    RIGHT,
    {
        "scale of one element": lambda x, s: narrow(x / s),
        "scale laid out": lambda x, s: narrow(x / s.expand(H)),
        "read back": lambda x, s: torch.round(torch.clamp(x / s, -128, 127)) * s,
        "read back, through int8": lambda x, s: narrow(x / s).to(x.dtype) * s,
    },
    *(row_of_scale, "quantize_static"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "sequences, by a stored scale": lambda x, s: narrow(x / s),
        "sequences in rows": lambda x, s: narrow(x.reshape(-1, H) / s),
    },
    *(sequences_and_scale, "quantize_static"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "offset": lambda x, s, o: torch.clamp(torch.round(x / s) + o, -128, 127).to(INT8),
        "offset inside": lambda x, s, o: torch.clamp(torch.round(x / s + o), -128, 127).to(INT8),
        "offset first": lambda x, s, o: torch.clamp(o + (x / s).round(), -128, 127).to(INT8),
    },
    *(scale_and_offset, "quantize_static"),
    kept=2,
)
put_all(
    RIGHT,
    {"int8 offset": lambda x, s, o: torch.clamp(torch.round(x / s) + o, -128, 127).to(INT8)},
    *(scale_and_int8_offset, "quantize_static"),
    kept=2,
)
put_all(
    RIGHT,
    {"stored reciprocal": lambda x, r: narrow(x * r)},
    *(reciprocal_scale, "quantize_static"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "a number of Python": lambda x: narrow(x / SCALE),
        "a reciprocal of Python": lambda x: narrow(x * (1 / SCALE)),
    },
    *(rows, "quantize_static"),
)


def largest(x: Tensor) -> Tensor:
    return x.abs().amax(-1, keepdim=True)


def by(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return narrow(x / scale), scale


LARGEST = {
    "amax": largest,
    "max of a dim": lambda x: x.abs().max(dim=-1, keepdim=True)[0],
    "max, unsqueezed": lambda x: x.abs().max(-1).values.unsqueeze(-1),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, float("inf"), -1, keepdim=True),
    "norm": lambda x: torch.norm(x, p=float("inf"), dim=-1, keepdim=True),
    "aminmax": lambda x: (lambda ends: torch.maximum(-ends[0], ends[1]))(
        torch.aminmax(x, dim=-1, keepdim=True)
    ),
    "both ends": lambda x: torch.maximum(x.amax(-1, True), -x.amin(-1, True)),
    "ends by max": lambda x: torch.max(x.max(-1, True)[0], (-x).max(-1, True)[0]),
    "of two halves": lambda x: torch.maximum(*(largest(half) for half in x.chunk(2, -1))),
}
put_all(
    RIGHT,
    {
        f"rows by {name}": lambda x, found=found: by(x, found(x.float()) / 127)
        for name, found in LARGEST.items()
    },
    *(rows, "quantize_dynamic"),
    kinds=(BF16,),
)
put_all(
    RIGHT,
    {
        "smoothquant": lambda x: by(x, largest(x).clamp(min=1e-5) / 127),
        "in the dtype of rows": lambda x: by(x, x.abs().max(-1, keepdim=True)[0] / 127),
        "compressed-tensors, ones for zeros": lambda x: (
            lambda s: by(x, torch.where(s == 0, 1.0, s))
        )(largest(x.float()) / 127),
        "scale clamped behind": lambda x: by(x.float(), (largest(x.float()) / 127).clamp(min=1e-8)),
        "times a hundredth": lambda x: by(x.float(), largest(x.float()) * (1 / 127)),
        "vLLM, rows by the inverse": lambda x: (
            lambda m: (narrow(x.float() * (127.0 / m)), m / 127.0)
        )(largest(x.float())),
    },
    *(rows, "quantize_dynamic"),
    kinds=(BF16,),
)
put_all(
    RIGHT,
    {
        "sequences, by their rows": lambda x: by(x, largest(x.float()) / 127),
        "rows read back": lambda x: (
            lambda s: (torch.round(torch.clamp(x / s, -128.0, 127.0)) * s).to(x.dtype)
        )(torch.where(largest(x.float()) == 0, 1.0, largest(x.to(F32)) / 127)),
    },
    *(sequences, "quantize_dynamic"),
    kinds=(BF16,),
)
put_all(
    RIGHT,
    {
        "smoothquant, in place on a copy": lambda x, s: (
            (x * 1).div_(s).round_().clamp_(-128, 127).to(INT8)
        ),
    },
    *(rows_and_scale, "quantize_static"),
    kept=1,
    dynamic=False,  # torch traces no in-place division with symbolic sizes here
)
put_all(
    RIGHT,
    {
        "rounded to no decimals": lambda x, s: (
            torch.round(x / s, decimals=0).clamp(-128, 127).to(INT8)
        ),
        "torch.special.round": lambda x, s: torch.special.round(x / s).clamp(-128, 127).char(),
    },
    *(rows_and_scale, "quantize_static"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "ends by where": lambda x, s: (
            lambda q: torch.where(q > 127, 127, torch.where(q < -128, -128, q)).to(INT8)
        )(torch.round(x / s)),
    },
    *(rows_and_scale, "quantize_static"),
    kept=1,
    left="a clamp that is spelled with where",
)
put_all(
    RIGHT,
    {
        "magnitudes by where": lambda x: by(
            x, torch.where(x < 0, -x, x).float().amax(-1, keepdim=True) / 127
        ),
    },
    *(rows, "quantize_dynamic"),
    kinds=(BF16,),
    left="magnitudes that are spelled with where",
)
