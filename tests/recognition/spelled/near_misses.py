"""What looks like an operator and is another function: it stays, and a reason is told."""

from __future__ import annotations

import torch
from torch.nn import functional

from tests.recognition.spelled import gates, products, quantizes, rotations
from tests.recognition.spelled.norms import EPS, H, ms, rows_and_gain, unit
from tests.recognition.spelled.table import BF16, Given, Table, normal, positive, put_all

NORMS: Table = {}
GATES: Table = {}
ROTATIONS: Table = {}
QUANTIZES: Table = {}
PRODUCTS: Table = {}
GAINLESS = frozenset({"rms_norm_without_gain"})


def two_rows(kind, tokens) -> Given:
    return *rows_and_gain(kind, tokens), normal(tokens, H, kind=kind, seed=9)


def gain_of_rows(kind, tokens) -> Given:
    return normal(tokens, H, kind=kind), positive(tokens, 1, kind=kind)


def gain_of_elements(kind, tokens) -> Given:
    return normal(tokens, H, kind=kind), positive(tokens, H, kind=kind)


def wrong(rows):
    """Rows, with the gain behind and a cast to their dtype."""
    return lambda x, g: (rows(x.float()) * g.float()).to(x.dtype)


WRONG_ROWS = {
    "eps behind the root": lambda v: v * (torch.rsqrt(ms(v)) + 1e-3),
    "eps outside": lambda v: v / (ms(v).sqrt() + 1e-3),
    "eps as a bound": lambda v: v * torch.rsqrt(ms(v).clamp(min=EPS)),
    "negative eps": lambda v: v * torch.rsqrt(ms(v) - 1e-3),
    "multiplied by the root": lambda v: v * torch.sqrt(ms(v) + EPS),
    "power of 1.01": lambda v: v * torch.rsqrt(ms(v) + EPS).pow(1.01),
    "third powers": lambda v: v / torch.linalg.vector_norm(v, 3, -1, keepdim=True),
    "largest": lambda v: v * torch.rsqrt(v.square().amax(-1, keepdim=True) + EPS),
    "centred": lambda v: v * torch.rsqrt(v.var(-1, correction=0, keepdim=True) + EPS),
    "centred rows": lambda v: (v - v.mean(-1, True)) * torch.rsqrt(ms(v) + EPS),
    "root of the sum": lambda v: v * torch.rsqrt(ms(v) + EPS) * torch.rsqrt(ms(v) + 1.0),
    "a bound of the root": lambda v: v * torch.rsqrt(ms(v) + EPS).clamp(max=2.0),
    "squared rows": lambda v: v * v * torch.rsqrt(ms(v) + EPS),
}
"""No root mean square of its rows, though it looks so."""
OTHER_ROWS = {
    "mean over rows": lambda v: v * torch.rsqrt(v.pow(2).mean(0, keepdim=True) + EPS),
    "no root": lambda v: v / (ms(v) + EPS),
    "fourth powers": lambda v: v * (v.pow(4).mean(-1, keepdim=True) + EPS) ** -0.25,
    "magnitudes": lambda v: v / (v.abs().mean(-1, keepdim=True) + EPS),
    "LayerNorm": lambda v: functional.layer_norm(v, (H,), eps=EPS),
    "half of the columns": lambda v: v * torch.rsqrt(ms(v[..., : H // 2]) + EPS),
    "running sums": lambda v: v * torch.rsqrt(v.square().cumsum(-1) / H + EPS),
}
"""Nothing like it."""
put_all(NORMS, {name: wrong(rows) for name, rows in WRONG_ROWS.items()}, rows_and_gain)
put_all(NORMS, {name: wrong(rows) for name, rows in OTHER_ROWS.items()}, rows_and_gain, quiet=True)
put_all(
    NORMS,
    {"mean of all": wrong(lambda v: v * torch.rsqrt(v.pow(2).mean() + EPS))},
    rows_and_gain,
    inside=frozenset({"rms_norm"}),  # of a single row
    quiet=True,
)
put_all(
    NORMS,
    {
        "another numerator": lambda x, g, y: (
            y.float() * torch.rsqrt(ms(x.float()) + EPS) * g.float()
        ).to(x.dtype),
        "cross product": lambda x, g, y: (
            x.float() * torch.rsqrt((x.float() * y.float()).mean(-1, True).abs() + EPS) * g.float()
        ).to(x.dtype),
    },
    two_rows,
)
put_all(
    NORMS,
    {"tanh behind": lambda x, g: torch.tanh(unit(x.float()) * g.float()).to(x.dtype)},
    rows_and_gain,
    inside=frozenset({"rms_norm", "rms_norm_of_widened_rows"}),
)
put_all(
    NORMS,
    {"clamped rows": lambda x, g: (unit(x.float().clamp(-1e4, 1e4)) * g.float()).to(x.dtype)},
    rows_and_gain,
    inside=frozenset({"rms_norm", "rms_norm_of_widened_rows"}),
)
put_all(
    NORMS,
    {"gain of rows": lambda x, g: (unit(x.float()) * g.float()).to(x.dtype)},
    gain_of_rows,
    inside=GAINLESS | {"rms_norm_without_gain_of_widened_rows"},
)
put_all(
    NORMS,
    {"gain of elements": lambda x, g: (unit(x.float()) * g.float()).to(x.dtype)},
    gain_of_elements,
    inside=GAINLESS | {"rms_norm_without_gain_of_widened_rows", "rms_norm"},
)

put_all(
    GATES,
    {
        "quick gelu": lambda g, u: g * torch.sigmoid(1.702 * g) * u,
        "gpt-oss": lambda g, u: (u + 1) * (g * torch.sigmoid(g * 1.702)),
        "silu over": lambda g, u: functional.silu(g) / u,
    },
    gates.apart,
)
put_all(
    GATES,
    {
        "sigmoid alone": lambda g, u: torch.sigmoid(g) * u,
        "mish": lambda g, u: functional.mish(g) * u,
        "hard swish": lambda g, u: functional.hardswish(g) * u,
        "relu squared": lambda g, u: functional.relu(g).square() * u,
        "gated by itself": lambda g, u: functional.silu(g) * g,
        "tanh gelu that forgets a root": lambda g, u: (
            0.5 * g * (1 + torch.tanh(0.79 * (g + 0.044715 * g**3))) * u
        ),
    },
    gates.apart,
    quiet=True,
)
put_all(
    GATES,
    {
        "silu of the sum": lambda g, u: functional.silu(g + u) * u,
        "silu of both": lambda g, u: functional.silu(g) * functional.silu(u),
        "one plus": lambda g, u: functional.silu(g) * (u + 1),
        "one token on": lambda g, u: functional.silu(g) * u.roll(1, 0),
    },
    gates.apart,
    inside=frozenset({"swiglu_unpacked"}),
)
put_all(
    GATES,
    {
        "both halves activated": gates.of_halves(
            lambda p: (p[..., : gates.WIDTH], functional.silu(p[..., gates.WIDTH :]))
        ),
        "overlapping halves": gates.of_halves(
            lambda p: (p[..., : gates.WIDTH], p[..., 1 : gates.WIDTH + 1])
        ),
        "reversed half": gates.of_halves(
            lambda p: (p[..., : gates.WIDTH], p[..., gates.WIDTH :].flip(-1))
        ),
    },
    gates.packed,
    inside=frozenset({"swiglu_unpacked"}),
)

put_all(
    ROTATIONS,
    {
        "mirrored": lambda x, c, s: x * c + torch.cat(x.chunk(2, -1)[::-1], -1) * s,
        "both negated": lambda x, c, s: x * c - torch.cat(x.chunk(2, -1)[::-1], -1) * s,
        "one half alone": lambda x, c, s: torch.cat(
            (x[..., :32] * c[..., :32] - x[..., 32:] * s[..., :32], x[..., 32:]), -1
        ),
        "squares": lambda x, c, s: x * x * c + rotations.turned(x) * s,
        "bent": lambda x, c, s: x * c + rotations.turned(x.tanh()) * s,
        "magnitudes": lambda x, c, s: x.abs() * c + rotations.turned(x) * s,
        "sines twice": lambda x, c, s: torch.cat(
            (x[..., :32] * c[..., :32] - x[..., 32:] * s[..., :32],) * 2, -1
        ),
    },
    rotations.placed(*rotations.SEQUENCES),
)
put_all(
    ROTATIONS,
    {
        "turned by a quarter": lambda x, c, s: x * c + torch.roll(x, 16, -1) * s,
        "reversed": lambda x, c, s: x * c + x.flip(-1) * s,
    },
    rotations.placed(*rotations.SEQUENCES),
    quiet=True,
)
put_all(
    ROTATIONS,
    {
        "added to": lambda x, c, s: rotations.halves(x, c, s) + 1,
        "of squares": lambda x, c, s: rotations.halves(x * x, c, s),
    },
    rotations.placed(*rotations.SEQUENCES),
    inside=frozenset({"rotary_mul"}),
)

put_all(
    QUANTIZES,
    {
        "no clamp": lambda x, s: (x / s).round().to(torch.int8),
        "uint8": lambda x, s: (x / s).round().clamp(0, 255).to(torch.uint8),
        "four bits": lambda x, s: (x / s).round().clamp(-8, 7).to(torch.int8),
        "floor": lambda x, s: (x / s).floor().clamp(-128, 127).to(torch.int8),
        "ceil": lambda x, s: (x / s).ceil().clamp(-128, 127).to(torch.int8),
        "clamped rows, wide": lambda x, s: (x / s).round().clamp(-200, 200).to(torch.int8),
        "by means of rows": lambda x, s: quantizes.narrow(x / x.mean(-1, keepdim=True)),
    },
    quantizes.rows_and_scale,
)
put_all(
    QUANTIZES,
    {
        "cut off": lambda x, s: (x / s).clamp(-128, 127).trunc().to(torch.int8),
    },
    quantizes.rows_and_scale,
    quiet=True,
)
put_all(
    QUANTIZES,
    {
        "of squares": lambda x, s: quantizes.narrow(x * x / s),
        "rounded twice": lambda x, s: quantizes.narrow((x / s).round() * 0.5),
        "by columns": lambda x, s: quantizes.narrow(x * 127 / x.abs().amax(0, keepdim=True)),
    },
    quantizes.rows_and_scale,
    inside=frozenset({"quantize_static"}),
)
put_all(
    QUANTIZES,
    {
        "by sums of rows": lambda x, s: quantizes.narrow(x * 127 / x.abs().sum(-1, keepdim=True)),
        "by the largest without its sign": lambda x, s: quantizes.narrow(
            x * 127 / x.amax(-1, keepdim=True)
        ),
        "by a bound": lambda x, s: quantizes.narrow(
            x * 127 / x.abs().amax(-1, keepdim=True).clamp(min=1.0)
        ),
        "seven bits": lambda x, s: quantizes.narrow(x * 63 / x.abs().amax(-1, keepdim=True)),
        "by all but one column": lambda x, s: quantizes.narrow(
            x * 127 / x[..., 1:].abs().amax(-1, keepdim=True)
        ),
        "by the least": lambda x, s: quantizes.narrow(x * -127 / x.amin(-1, keepdim=True)),
    },
    quantizes.rows_and_scale,
    inside=frozenset({"quantize_static"}),  # of a single row, whose scale is one number
)
put_all(
    PRODUCTS,
    {
        "squared weight": lambda q, r, w, c, b: (
            (q.float() @ w.float().square().t()) * c * r[:, None]
        ).to(BF16),
        "rows by a bent scale": lambda q, r, w, c, b: (
            torch.tanh(products.product(q, w).float() * c) * r[:, None]
        ).to(BF16),
        "weight alone": lambda q, r, w, c, b: (
            (torch.sin(q.float()) @ w.float().t()) * c * r[:, None]
        ).to(BF16),
        "scaled inside": lambda q, r, w, c, b: (
            (q.float() @ (w.float() * torch.linspace(1, 2, products.K)).t()) * c * r[:, None]
        ).to(BF16),
        "scaled by elements": lambda q, r, w, c, b: (
            products.product(q, w).float().square() * c * r[:, None]
        ).to(BF16),
        "clamped sum": lambda q, r, w, c, b: (
            products.product(q, w).clamp(-1000, 1000).float() * c * r[:, None]
        ).to(BF16),
    },
    products.given,
    kinds=(BF16,),
)
