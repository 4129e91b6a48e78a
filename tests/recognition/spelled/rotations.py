"""Rotary embeddings as people write them.

`x` are heads in one of several layouts; `cos` and `sin` are tables of whole heads or of their
halves, laid beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tests.recognition.spelled.table import F32, Table, entry, normal, put_all

B, HEADS, GROUPS, D = 2, 4, 2, 64
RIGHT: Table = {}


def angles(tokens: int, columns: int = D // 2) -> Tensor:
    """[tokens, columns]: every column turns at a speed of its own."""
    speeds = 1e4 ** (-torch.arange(columns) / columns)
    return torch.outer(torch.arange(float(tokens)) + 1, speeds)


def tables(kind, tokens: int, half: bool, columns: int = D // 2) -> tuple[Tensor, Tensor]:
    """cos and sin, [tokens, columns] or twice as wide."""
    turn = angles(tokens, columns)
    turn = turn if half else torch.cat((turn, turn), -1)
    return turn.cos().to(kind), turn.sin().to(kind)


def placed(shape, beside, half=False, columns=D // 2, wide=False):
    """Inputs: heads of a shape with a place for the tokens, and tables beside them."""

    def inputs(kind, tokens):
        sizes = [tokens if size == 0 else size for size in shape]
        of = F32 if wide else kind
        return normal(*sizes, kind=kind), *map(beside, tables(of, tokens, half, columns))

    return inputs


def cached(kind, tokens):
    """Heads, a table [128, D] of cosines beside sines, and positions."""
    cos, sin = tables(kind, 128, half=True)
    heads = normal(tokens, HEADS, D, kind=kind)
    return heads, torch.cat((cos, sin), -1), torch.arange(tokens) + 3


def complex_factors(kind, tokens):
    turn = angles(tokens)
    return normal(B, tokens, HEADS, D, kind=kind), torch.polar(torch.ones_like(turn), turn)


def pairs_of_numbers(kind, tokens):
    """Heads and a table [tokens, D/2, 2]."""
    heads, factors = complex_factors(kind, tokens)
    return heads, torch.view_as_real(factors).to(kind).contiguous()


def angles_themselves(kind, tokens):
    return normal(B, tokens, HEADS, D, kind=kind), angles(tokens)


TOKENS = (0, HEADS, D), lambda t: t[:, None]
SEQUENCES = (B, 0, HEADS, D), lambda t: t[None, :, None]
HEADS_FIRST = (B, HEADS, 0, D), lambda t: t[None, None]
TOKENS_FIRST = (0, B, HEADS, D), lambda t: t[:, None, None]


def turned(x: Tensor) -> Tensor:
    """The halves, exchanged, the second one negated."""
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


def turned_pairs(x: Tensor) -> Tensor:
    """Neighbours, exchanged, the second one negated."""
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def halves(x, c, s):
    return x * c + turned(x) * s


def by_halves(x, c, s):
    a, b = x.chunk(2, -1)
    return torch.cat((a * c - b * s, b * c + a * s), -1)


def written(x, c, s):
    out = torch.empty_like(x)
    half = x.shape[-1] // 2
    out[..., :half] = x[..., :half] * c - x[..., half:] * s
    out[..., half:] = x[..., half:] * c + x[..., :half] * s
    return out


WHOLE = {
    "sum the other way": lambda x, c, s: turned(x) * s + x * c,
    "Hugging Face, chunked": lambda x, c, s: (
        x * c + torch.cat((lambda a, b: (-b, a))(*x.chunk(2, -1)), -1) * s
    ),
    "litgpt, stacked halves": lambda x, c, s: (
        x * c
        + (lambda v: torch.cat((-v[..., 1, :], v[..., 0, :]), -1))(x.unflatten(-1, (2, -1))) * s
    ),
    "Megatron, by unbind": lambda x, c, s: (
        x * c + (lambda a, b: torch.cat((-b, a), -1))(*x.unflatten(-1, (2, -1)).unbind(-2)) * s
    ),
    "TensorRT-LLM, by split": lambda x, c, s: (
        x * c + (lambda a, b: torch.cat((0.0 - b, a), -1))(*x.split(D // 2, -1)) * s
    ),
    "rolled with signs": lambda x, c, s: (
        x * c
        + torch.roll(x, D // 2, -1)
        * torch.cat((-torch.ones(D // 2), torch.ones(D // 2))).to(x.dtype)
        * s
    ),
    "wide": lambda x, c, s: halves(x.float(), c.float(), s.float()).to(x.dtype),
    "scaled tables": lambda x, c, s: halves(x, c * 1.2, s * 1.2),
    "backwards": lambda x, c, s: x * c - turned(x) * s,
    "halves of whole tables": lambda x, c, s: by_halves(x, c[..., : D // 2], s[..., : D // 2]),
    "in place on a copy": lambda x, c, s: (x * c).add_(turned(x) * s),
    "queries and keys of one value": lambda x, c, s: halves(x, c, s).split([1, HEADS - 1], 2),
}
"""cos and sin as wide as heads, beside [B, tokens, heads, D]."""
HALF = {
    "half tables": by_halves,
    "nanochat, the other sign": lambda x, c, s: (
        lambda a, b: torch.cat((a * c + b * s, a * -s + b * c), -1)
    )(*x.chunk(2, -1)),
    "mlx, by parts in float32": lambda x, c, s: (
        lambda a, b: torch.cat((a * c - b * s, a * s + b * c), -1).to(x.dtype)
    )(*x.float().chunk(2, -1)),
    "vLLM, repeated tables": lambda x, c, s: halves(
        x, torch.cat((c, c), -1), torch.cat((s, s), -1)
    ),
    "tables by repeat": lambda x, c, s: halves(x, c.repeat(1, 1, 1, 2), s.repeat(1, 1, 1, 2)),
    "written in halves": written,
    "stacked in halves": lambda x, c, s: (
        lambda a, b: torch.stack((a * c - b * s, b * c + a * s), -2).flatten(-2)
    )(*x.chunk(2, -1)),
    "complex of halves": lambda x, c, s: (lambda z: torch.cat((z.real, z.imag), -1).to(x.dtype))(
        torch.complex(*x.float().chunk(2, -1)) * torch.complex(c.float(), s.float())
    ),
}
PAIRS = {
    "gpt-fast": lambda x, c, s: (
        lambda v: (
            torch.stack((v[..., 0] * c - v[..., 1] * s, v[..., 1] * c + v[..., 0] * s), -1)
            .flatten(3)
            .type_as(x)
        )
    )(x.float().reshape(*x.shape[:-1], -1, 2)),
    "every second": lambda x, c, s: (
        lambda a, b: torch.stack((a * c - b * s, b * c + a * s), -1).flatten(-2)
    )(x[..., ::2], x[..., 1::2]),
    "GPT-J, repeated tables": lambda x, c, s: (
        x * c.repeat_interleave(2, -1) + turned_pairs(x) * s.repeat_interleave(2, -1)
    ),
    "tables by stack": lambda x, c, s: (
        x * torch.stack((c, c), -1).flatten(-2)
        + turned_pairs(x) * torch.stack((s, s), -1).flatten(-2)
    ),
    "unbound": lambda x, c, s: (
        lambda a, b: torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)
    )(*x.unflatten(-1, (-1, 2)).unbind(-1)),
    "Megatron, interleaved by view": lambda x, c, s: (
        lambda a, b: torch.stack((a * c - b * s, b * c + a * s), -1).view(x.shape)
    )(x[..., 0::2], x[..., 1::2]),
    "vLLM, GPT-J style": lambda x, c, s: (
        lambda a, b: torch.stack((a * c - b * s, b * c + a * s), dim=-1).flatten(-2)
    )(x[..., ::2], x[..., 1::2]),
    "complex of both": lambda x, c, s: (
        torch.view_as_real(
            torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            * torch.complex(c.float(), s.float())
        )
        .flatten(3)
        .type_as(x)
    ),
    "written in pairs": lambda x, c, s: written_pairs(x, c, s),
}
"""Neighbouring columns; cos and sin of half heads."""


def written_pairs(x, c, s):
    out = torch.empty_like(x)
    out[..., ::2] = x[..., ::2] * c - x[..., 1::2] * s
    out[..., 1::2] = x[..., 1::2] * c + x[..., ::2] * s
    return out


LOOKUPS = {
    "index_select": lambda t, i: t.index_select(0, i),
    "embedding": lambda t, i: functional.embedding(i, t),
    "index": lambda t, i: t[i],
    "gather": lambda t, i: t.gather(0, i[:, None].expand(-1, D)),
    "take_along_dim": lambda t, i: torch.take_along_dim(t, i[:, None], 0),
}


def looked_up(look):
    """vLLM's own: a lookup, halves, a rotation."""

    def spelling(x, table, positions):
        cos, sin = look(table, positions).chunk(2, -1)
        return by_halves(x, cos[:, None], sin[:, None])

    return spelling


put_all(RIGHT, WHOLE, placed(*SEQUENCES), "rotary_mul")
put_all(RIGHT, HALF, placed(*SEQUENCES, half=True), "rotary_mul")
put_all(RIGHT, PAIRS, placed(*SEQUENCES, half=True), "rotary_mul_interleaved")
put_all(
    RIGHT,
    {f"looked up by {name}": looked_up(look) for name, look in LOOKUPS.items()},
    *(cached, "rotary_mul"),
)
put_all(
    RIGHT,
    {
        "heads first": halves,
        "heads first, scaled queries": lambda x, c, s: halves(x * D**-0.5, c, s),
    },
    *(placed(*HEADS_FIRST), "rotary_mul"),
)
put_all(
    RIGHT,
    {
        "Hugging Face, transposed": lambda x, c, s: halves(
            x.transpose(1, 2), c.transpose(1, 2), s.transpose(1, 2)
        )
    },
    *(placed(*SEQUENCES), "rotary_mul"),
)
put_all(RIGHT, {"Megatron, tokens first": halves}, placed(*TOKENS_FIRST), "rotary_mul")
put_all(
    RIGHT,
    {
        "rows of tokens": by_halves,
        "tables joined in the layer": lambda x, c, s: halves(
            x, torch.cat((c, c), -1), torch.cat((s, s), -1)
        ),
    },
    *(placed(*TOKENS, half=True), "rotary_mul"),
)
put_all(
    RIGHT,
    {
        "float32 tables": lambda x, c, s: halves(x, c, s).to(x.dtype),
        "float32 tables, wide rows": lambda x, c, s: halves(x.float(), c, s).type_as(x),
    },
    *(placed(*SEQUENCES, wide=True), "rotary_mul"),
    bound=4.0,  # the operator wants the tables in the dtype of the rows
)
put_all(
    RIGHT,
    {
        "part of a head": lambda x, c, s: torch.cat(
            (by_halves(x[..., :32], c, s), x[..., 32:]), -1
        ),
        "last part of a head": lambda x, c, s: torch.cat(
            (x[..., 32:], by_halves(x[..., :32], c, s)), -1
        ),
        "Phi, by split": lambda x, c, s: (lambda a, b: torch.cat((by_halves(a, c, s), b), -1))(
            *x.split([32, D - 32], -1)
        ),
    },
    *(placed(*TOKENS, half=True, columns=16), "rotary_mul"),
)
put_all(
    RIGHT,
    {
        "Meta's Llama": lambda x, f: (
            torch.view_as_real(
                torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * f[None, :, None]
            )
            .flatten(3)
            .type_as(x)
        ),
        "mistral-inference": lambda x, f: (
            torch.view_as_real(
                torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
                * f.unsqueeze(0).unsqueeze(2)
            )
            .flatten(-2)
            .to(x.dtype)
        ),
        "fairscale, viewed factors": lambda x, f: (
            torch.view_as_real(
                torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
                * f.view(1, x.shape[1], 1, -1)
            )
            .flatten(3)
            .type_as(x)
        ),
        "parts of the factors": lambda x, f: (
            lambda c, s: (lambda a, b: torch.stack((a * c - b * s, b * c + a * s), -1).flatten(-2))(
                x.float()[..., ::2], x.float()[..., 1::2]
            )
        )(f.real[None, :, None], f.imag[None, :, None]).to(x.dtype),
    },
    *(complex_factors, "rotary_mul_interleaved"),
    bound=4.0,
)
put_all(
    RIGHT,
    {
        "DeepSeek, pairs in and halves out": lambda x, f: (
            lambda z: torch.cat((z.real, z.imag), -1).to(x.dtype)
        )(torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous()) * f[None, :, None]),
    },
    *(complex_factors, "rotary_mul"),
    bound=4.0,
)
put_all(
    RIGHT,
    {
        "torchtune": lambda x, f: (
            lambda v, t: (
                torch.stack(
                    (
                        v[..., 0] * t[..., 0] - v[..., 1] * t[..., 1],
                        v[..., 1] * t[..., 0] + v[..., 0] * t[..., 1],
                    ),
                    -1,
                )
                .flatten(3)
                .type_as(x)
            )
        )(x.float().reshape(*x.shape[:-1], -1, 2), f.view(-1, x.size(1), 1, D // 2, 2)),
    },
    *(pairs_of_numbers, "rotary_mul_interleaved"),
)
put_all(
    RIGHT,
    {
        "angles in the layer": lambda x, a: halves(
            x,
            torch.cat((a, a), -1).cos().to(x.dtype)[None, :, None],
            torch.cat((a, a), -1).sin().to(x.dtype)[None, :, None],
        ),
        "polar in the layer": lambda x, a: by_halves(
            x, a.cos().to(x.dtype)[None, :, None], a.sin().to(x.dtype)[None, :, None]
        ),
    },
    *(angles_themselves, "rotary_mul"),
)
NO_SYMBOLS = {"dynamic": False}  # torch's own addcmul takes no symbolic sizes in a trace
put_all(
    RIGHT,
    {"by addcmul": lambda x, c, s: torch.addcmul(x * c, turned(x), s)},
    *(placed(*SEQUENCES), "rotary_mul"),
    **NO_SYMBOLS,
)
put_all(
    RIGHT,
    {
        "addcmul of halves": lambda x, c, s: (
            lambda a, b: torch.cat((torch.addcmul(a * c, b, -s), torch.addcmul(b * c, a, s)), -1)
        )(*x.chunk(2, -1)),
    },
    *(placed(*SEQUENCES, half=True), "rotary_mul"),
    **NO_SYMBOLS,
)
put_all(
    RIGHT,
    {
        "signs in the table": lambda x, c, s: (
            x * c + torch.roll(x, D // 2, -1) * torch.cat((-s[..., : D // 2], s[..., D // 2 :]), -1)
        ),
    },
    *(placed(*SEQUENCES), "rotary_mul"),
    left="sines of which one half is negated in the graph are read from two pieces of a table",
)


def signed_sines(kind, tokens):
    x, cos, sin = placed(*SEQUENCES)(kind, tokens)
    signs = torch.cat((-torch.ones(D // 2), torch.ones(D // 2))).to(kind)
    return x, cos, sin * signs


def chatglm(kind, tokens):
    """Heads [tokens, batch, heads, D], of which the first half turns, and a table [.., D/4, 2]."""
    turn = angles(tokens, D // 4)
    factors = torch.stack((turn.cos(), turn.sin()), -1)
    return normal(tokens, B, HEADS, D, kind=kind), factors.to(kind)


@entry(
    RIGHT,
    signed_sines,
    "rotary_mul",
    left="sines that are stored with the signs of a roll are not seen to be sines",
)
def signs_in_a_stored_table(x, cos, sin):
    return x * cos + torch.roll(x, D // 2, -1) * sin


@entry(RIGHT, chatglm, "rotary_mul_interleaved")
def chatglm2(x, factors):
    turning, rest = x[..., : D // 2], x[..., D // 2 :]
    v = turning.reshape(x.size(0), -1, x.size(2), D // 4, 2)
    f = factors.view(x.size(0), -1, 1, D // 4, 2)
    real = v[..., 0] * f[..., 0] - v[..., 1] * f[..., 1]
    imaginary = v[..., 1] * f[..., 0] + v[..., 0] * f[..., 1]
    return torch.cat((torch.stack((real, imaginary), -1).flatten(3), rest), -1)
