"""Gated activations as people write them, of two projections and of one that holds both."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.recognition.spelled.table import Table, normal, positive, put_all

WIDTH, HIDDEN = 64, 48
RIGHT: Table = {}
silu = functional.silu


def apart(kind, tokens):
    return normal(tokens, WIDTH, kind=kind), normal(tokens, WIDTH, kind=kind, seed=2)


def experts(kind, tokens):
    shape = 3, tokens, WIDTH
    return normal(*shape, kind=kind), normal(*shape, kind=kind, seed=2)


def packed(kind, tokens):
    return (normal(tokens, 2 * WIDTH, kind=kind),)


def of_experts(kind, tokens):
    return (normal(2, tokens, 2 * WIDTH, kind=kind),)


def projected(kind, tokens):
    weights = (normal(WIDTH, HIDDEN, kind=kind, seed=seed) * 0.1 for seed in (3, 4))
    return normal(tokens, HIDDEN, kind=kind), *weights


def projected_at_once(kind, tokens):
    weight = normal(2 * WIDTH, HIDDEN, kind=kind, seed=3) * 0.1
    return normal(tokens, HIDDEN, kind=kind), weight, positive(2 * WIDTH, kind=kind)


SILU = {
    "silu times": lambda g, u: silu(g) * u,
    "times silu": lambda g, u: u * silu(g),
    "torch.mul": lambda g, u: torch.mul(silu(g), u),
    "module": lambda g, u: nn.SiLU()(g) * u,
    "in place on its own product": lambda g, u: silu(g).mul_(u),
    "in place on a copy": lambda g, u: silu(g + 0.0, inplace=True) * u,
    "g*sigmoid*u": lambda g, u: g * torch.sigmoid(g) * u,
    "sigmoid*g*u": lambda g, u: torch.sigmoid(g) * g * u,
    "g*(sigmoid*u)": lambda g, u: g * (torch.sigmoid(g) * u),
    "u*g*sigmoid": lambda g, u: u * g * torch.sigmoid(g),
    "u*(g*sigmoid)": lambda g, u: u * (g * g.sigmoid()),
    "expit": lambda g, u: g * torch.special.expit(g) * u,
    "swish of beta one": lambda g, u: g * torch.sigmoid(1.0 * g) * u,
    "over one plus exp": lambda g, u: g / (1 + torch.exp(-g)) * u,
    "product over one plus exp": lambda g, u: g * u / (1 + torch.exp(-g)),
    "one over, wide": lambda g, u: (g.float() * (1 / (1 + torch.exp(-g.float()))) * u.float()).to(
        g.dtype
    ),
    "reciprocal": lambda g, u: g * (torch.exp(-g) + 1).reciprocal() * u,
    "power of minus one": lambda g, u: g * (1 + torch.exp(-g)) ** -1 * u,
    "exp over exp plus one": lambda g, u: (
        (lambda v: v * torch.exp(v) / (torch.exp(v) + 1))(g.float()) * u
    ).to(g.dtype),
    "expm1": lambda g, u: g / (2 + torch.expm1(-g)) * u,
    "one less the other sigmoid": lambda g, u: g * (1 - torch.sigmoid(-g)) * u,
    "tanh of a half": lambda g, u: 0.5 * g * (1 + torch.tanh(g * 0.5)) * u,
    "softplus": lambda g, u: (g.float() * torch.exp(-functional.softplus(-g.float())) * u).to(
        g.dtype
    ),
    "logsigmoid": lambda g, u: g * torch.exp(functional.logsigmoid(g)) * u,
    "softmax with zero": lambda g, u: (
        g * torch.stack((g, torch.zeros_like(g)), -1).softmax(-1)[..., 0] * u
    ),
    "glu by torch": lambda g, u: functional.glu(torch.cat((g * u, g), -1), -1),
    "wide, cast behind": lambda g, u: (silu(g.float()) * u.float()).to(g.dtype),
    "promoted, cast behind": lambda g, u: (silu(g.float()) * u).to(g.dtype),
    "wide gate, cast in front of the product": lambda g, u: silu(g.float()).type_as(u) * u,
    "einsum": lambda g, u: torch.einsum("...i,...i->...i", silu(g), u),
    "rows of batches": lambda g, u: (silu(g[None]) * u[None])[0],
    "flat and back": lambda g, u: (silu(g.flatten()) * u.flatten()).view_as(g),
    "negated twice": lambda g, u: silu(g) * -u * -1,
}
"""SiLU of one projection times another."""
HALVES = {
    "chunk": lambda p: p.chunk(2, -1),
    "chunk of dim one": lambda p: p.chunk(2, dim=1),
    "split": lambda p: p.split(WIDTH, -1),
    "split of sizes": lambda p: torch.split(p, [WIDTH, WIDTH], dim=-1),
    "tensor_split": lambda p: torch.tensor_split(p, 2, -1),
    "narrow": lambda p: (p.narrow(-1, 0, WIDTH), p.narrow(-1, WIDTH, WIDTH)),
    "slices": lambda p: (p[..., :WIDTH], p[..., WIDTH:]),
    "slices from behind": lambda p: (p[:, :-WIDTH], p[:, -WIDTH:]),
    "view and select": lambda p: (lambda v: (v[:, 0], v[:, 1]))(p.view(-1, 2, WIDTH)),
    "unflatten and unbind": lambda p: p.unflatten(-1, (2, WIDTH)).unbind(-2),
    "Megatron's interleaved blocks": lambda p: (
        lambda v: (v[..., 0, :].flatten(1), v[..., 1, :].flatten(1))
    )(p.view(-1, 1, 2, WIDTH)),
    "pairs": lambda p: (p[..., ::2], p[..., 1::2]),
    "pairs by view": lambda p: p.view(-1, WIDTH, 2).unbind(-1),
    "the other half first": lambda p: p.chunk(2, -1)[::-1],
}
"""How one projection is cut."""


def of_halves(part, activation=silu):
    """A gated activation of a packed projection."""

    def spelling(p):
        gate, up = part(p)
        return activation(gate) * up

    return spelling


put_all(RIGHT, SILU, apart, "swiglu_unpacked")
put_all(
    RIGHT,
    {
        "experts": lambda g, u: silu(g) * u,
        "experts, transposed": lambda g, u: (silu(g) * u).transpose(0, 1),
    },
    *(experts, "swiglu_unpacked"),
)
put_all(RIGHT, {name: of_halves(part) for name, part in HALVES.items()}, packed, "swiglu")
put_all(
    RIGHT,
    {
        "vLLM": lambda p: silu(p[..., : p.shape[-1] // 2]) * p[..., p.shape[-1] // 2 :],
        "Phi-3": lambda p: (lambda gate, up: up * silu(gate))(*p.chunk(2, dim=-1)),
        "packed, wide": lambda p: (lambda g, u: (silu(g.float()) * u.float()).type_as(p))(
            *p.chunk(2, -1)
        ),
        "packed, by torch's glu": lambda p: (lambda g, u: functional.glu(torch.cat((g * u, g), 1)))(
            *p.chunk(2, -1)
        ),
    },
    *(packed, "swiglu"),
)
put_all(
    RIGHT,
    {
        "batches": of_halves(lambda p: p.chunk(2, -1)),
        "batches as rows": lambda p: of_halves(lambda r: r.chunk(2, -1))(
            p.reshape(-1, 2 * WIDTH)
        ).view(*p.shape[:2], WIDTH),
    },
    *(of_experts, "swiglu"),
)
put_all(
    RIGHT,
    {
        "two linears": lambda x, a, b: silu(functional.linear(x, a)) * functional.linear(x, b),
        "two matmuls": lambda x, a, b: silu(x @ a.t()) * (x @ b.t()),
        "two einsums": lambda x, a, b: (
            torch.einsum("th,ih->ti", x, b) * silu(torch.einsum("th,ih->ti", x, a))
        ),
    },
    *(projected, "swiglu_unpacked"),
    kept=2,
    bound=12.0,  # bfloat16 projections, whose roundings the gate doubles
)
put_all(
    RIGHT,
    {"one linear": lambda x, w, b: of_halves(HALVES["chunk"])(functional.linear(x, w, b))},
    *(projected_at_once, "swiglu"),
    kept=2,
    bound=12.0,
)
put_all(
    RIGHT,
    {
        "geglu": of_halves(HALVES["chunk"], functional.gelu),
        "geglu by tanh": of_halves(
            HALVES["split"], lambda g: functional.gelu(g, approximate="tanh")
        ),
        "geglu, erf written out": of_halves(
            HALVES["chunk"], lambda g: g * 0.5 * (1 + torch.erf(g * 0.5**0.5))
        ),
        "geglu, Phi written out": of_halves(HALVES["narrow"], lambda g: g * torch.special.ndtr(g)),
        "geglu, gate behind": of_halves(HALVES["the other half first"], functional.gelu),
        "geglu, tanh written out": of_halves(
            HALVES["chunk"],
            lambda g: 0.5 * g * (1 + torch.tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))),
        ),
        "geglu, tanh as a sigmoid": of_halves(
            HALVES["chunk"],
            lambda g: g * torch.sigmoid(1.5957691216057308 * (g + 0.044715 * g**3)),
        ),
    },
    *(packed, "geglu"),
    bound=3.0,
)
