"""What looks like an operator and is another function: it stays, and a reason is told."""

from __future__ import annotations

import torch
from torch.nn import functional

from tests.recognition.spelled import gates, norms, products, quantizes, rotations
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


put_all(
    NORMS,
    {
        name: wrong(rows)
        for name, rows in {
            "eps behind the root": lambda v: v * (torch.rsqrt(ms(v)) + 1e-3),
            "eps outside": lambda v: v / (ms(v).sqrt() + 1e-3),
            "eps as a bound": lambda v: v * torch.rsqrt(ms(v).clamp(min=EPS)),
            "negative eps": lambda v: v * torch.rsqrt(ms(v) - 1e-3),
            "mean over rows": lambda v: v * torch.rsqrt(v.pow(2).mean(0, keepdim=True) + EPS),
            "mean of all": lambda v: v * torch.rsqrt(v.pow(2).mean() + EPS),
            "no root": lambda v: v / (ms(v) + EPS),
            "multiplied by the root": lambda v: v * torch.sqrt(ms(v) + EPS),
            "power of 1.01": lambda v: v * torch.rsqrt(ms(v) + EPS).pow(1.01),
            "fourth powers": lambda v: v * (v.pow(4).mean(-1, keepdim=True) + EPS) ** -0.25,
            "third powers": lambda v: v / torch.linalg.vector_norm(v, 3, -1, keepdim=True),
            "magnitudes": lambda v: v / (v.abs().mean(-1, keepdim=True) + EPS),
            "largest": lambda v: v * torch.rsqrt(v.square().amax(-1, keepdim=True) + EPS),
            "centred": lambda v: v * torch.rsqrt(v.var(-1, correction=0, keepdim=True) + EPS),
            "LayerNorm": lambda v: functional.layer_norm(v, (H,), eps=EPS),
            "centred rows": lambda v: (v - v.mean(-1, True)) * torch.rsqrt(ms(v) + EPS),
            "one column less": lambda v: v * torch.rsqrt(v.square().sum(-1, True) / (H - 1) + EPS),
            "half of the columns": lambda v: (
                v * torch.rsqrt(ms(v[..., : H // 2]) + EPS)
            ),
            "running sums": lambda v: v * torch.rsqrt(v.square().cumsum(-1) / H + EPS),
            "root of the sum": lambda v: v * torch.rsqrt(ms(v) + EPS) * torch.rsqrt(ms(v) + 1.0),
            "a bound of the root": lambda v: v * torch.rsqrt(ms(v) + EPS).clamp(max=2.0),
            "squared rows": lambda v: v * v * torch.rsqrt(ms(v) + EPS),
        }.items()
    },
    rows_and_gain,
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
        "sigmoid alone": lambda g, u: torch.sigmoid(g) * u,
        "quick gelu": lambda g, u: g * torch.sigmoid(1.702 * g) * u,
        "mish": lambda g, u: functional.mish(g) * u,
        "hard swish": lambda g, u: functional.hardswish(g) * u,
        "relu squared": lambda g, u: functional.relu(g).square() * u,
        "silu of the sum": lambda g, u: functional.silu(g + u) * u,
        "silu of both": lambda g, u: functional.silu(g) * functional.silu(u),
        "gated by itself": lambda g, u: functional.silu(g) * g,
        "one plus": lambda g, u: functional.silu(g) * (u + 1),
        "gpt-oss": lambda g, u: (u + 1) * (g * torch.sigmoid(g * 1.702)),
        "silu over": lambda g, u: functional.silu(g) / u,
        "one token on": lambda g, u: functional.silu(g) * u.roll(1, 0),
        "tanh gelu that forgets a root": lambda g, u: (
            0.5 * g * (1 + torch.tanh(0.79 * (g + 0.044715 * g**3))) * u
        ),
    },
    gates.apart,
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
        "turned by a quarter": lambda x, c, s: x * c + torch.roll(x, 16, -1) * s,
        "reversed": lambda x, c, s: x * c + x.flip(-1) * s,
        "one half alone": lambda x, c, s: torch.cat(
            (x[..., :32] * c[..., :32] - x[..., 32:] * s[..., :32], x[..., 32:]), -1
        ),
        "squares": lambda x, c, s: x * x * c + rotations.turned(x) * s,
        "bent": lambda x, c, s: x * c + rotations.turned(x.tanh()) * s,
        "magnitudes": lambda x, c, s: x.abs() * c + rotations.turned(x) * s,
        "sines twice": lambda x, c, s: (
            torch.cat((x[..., :32] * c[..., :32] - x[..., 32:] * s[..., :32],) * 2, -1)
        ),
    },
    rotations.placed(*rotations.SEQUENCES),
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
        "cut off": lambda x, s: (x / s).clamp(-128, 127).trunc().to(torch.int8),
        "floor": lambda x, s: (x / s).floor().clamp(-128, 127).to(torch.int8),
        "ceil": lambda x, s: (x / s).ceil().clamp(-128, 127).to(torch.int8),
        "of squares": lambda x, s: quantizes.narrow(x * x / s),
        "rounded twice": lambda x, s: quantizes.narrow((x / s).round() * 0.5),
        "clamped rows, wide": lambda x, s: (x / s).round().clamp(-200, 200).to(torch.int8),
        "by means of rows": lambda x, s: quantizes.narrow(x / x.mean(-1, keepdim=True)),
        "by sums of rows": lambda x, s: quantizes.narrow(x * 127 / x.abs().sum(-1, keepdim=True)),
        "by columns": lambda x, s: quantizes.narrow(x * 127 / x.abs().amax(0, keepdim=True)),
        "by the largest without its sign": lambda x, s: quantizes.narrow(
            x * 127 / x.amax(-1, keepdim=True)
        ),
        "by a bound": lambda x, s: quantizes.narrow(
            x * 127 / x.abs().amax(-1, keepdim=True).clamp(min=1.0)
        ),
        "seven bits": lambda x, s: quantizes.narrow(x * 63 / x.abs().amax(-1, keepdim=True)),
    },
    quantizes.rows_and_scale,
)

put_all(
    PRODUCTS,
    {
        "squared weight": lambda q, w, c, r, b: (
            (q.float() @ w.float().square().t()) * c * r[:, None]
        ).to(BF16),
        "rows by a bent scale": lambda q, w, c, r, b: (
            torch.tanh(products.product(q, w).float() * c) * r[:, None]
        ).to(BF16),
        "weight alone": lambda q, w, c, r, b: (
            (torch.sin(q.float()) @ w.float().t()) * c * r[:, None]
        ).to(BF16),
        "scaled inside": lambda q, w, c, r, b: (
            (q.float() @ (w.float() * torch.linspace(1, 2, products.K)).t()) * c * r[:, None]
        ).to(BF16),
        "scaled by elements": lambda q, w, c, r, b: (
            products.product(q, w).float().square() * c * r[:, None]
        ).to(BF16),
        "clamped sum": lambda q, w, c, r, b: (
            products.product(q, w).clamp(-1000, 1000).float() * c * r[:, None]
        ).to(BF16),
    },
    products.given,
    kinds=(BF16,),
    inside=frozenset({"quant_matmul_static", "quant_matmul_dynamic"}),
)
assert norms.RIGHT
EVERY = {"norms": NORMS, "gates": GATES, "rotations": ROTATIONS, "quantizes": QUANTIZES}
EVERY["products"] = PRODUCTS
