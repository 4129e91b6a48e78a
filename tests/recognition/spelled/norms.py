"""RMSNorm as people write it; `x` are rows [tokens, H] and `g` is a gain [H]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tests.recognition.spelled.table import F32, Table, entry, normal, positive, put_all

H, EPS, HEADS = 64, 1e-6, 4
RIGHT: Table = {}


def rows_and_gain(kind, tokens):
    return normal(tokens, H, kind=kind), positive(H, kind=kind)


def rows_and_offset(kind, tokens):
    return normal(tokens, H, kind=kind), normal(H, kind=kind, seed=3) * 0.1


def sequences_and_gain(kind, tokens):
    return normal(2, tokens, H, kind=kind), positive(H, kind=kind)


def row_of_gain(kind, tokens):
    return normal(tokens, H, kind=kind), positive(1, H, kind=kind)


def wide_gain(kind, tokens):
    return normal(tokens, H, kind=kind), positive(H, kind=torch.float64)


def float32_gain(kind, tokens):
    return normal(tokens, H, kind=kind), positive(H)


def heads_and_gain(kind, tokens):
    return normal(2, tokens, HEADS, H, kind=kind), positive(H, kind=kind)


def ms(v: Tensor) -> Tensor:
    """The mean square of rows."""
    return v.pow(2).mean(-1, keepdim=True)


def unit(v: Tensor) -> Tensor:
    """Rows over their root mean square."""
    return v * torch.rsqrt(ms(v) + EPS)


NORMALIZED = {
    # What the mean is spelled as.
    "x*x": lambda v: v * torch.rsqrt((v * v).mean(-1, keepdim=True) + EPS),
    "square()": lambda v: v * torch.rsqrt(v.square().mean(-1, keepdim=True) + EPS),
    "x**2": lambda v: v * torch.rsqrt((v**2).mean(-1, keepdim=True) + EPS),
    "mean as torch's function": lambda v: v * torch.rsqrt(torch.mean(v**2, -1, True) + EPS),
    "mean with its dtype": lambda v: v * torch.rsqrt((v * v).mean(-1, True, dtype=F32) + EPS),
    "sum over H": lambda v: v * torch.rsqrt(v.pow(2).sum(-1, keepdim=True) / H + EPS),
    "sum times 1/H": lambda v: v * torch.rsqrt(v.pow(2).sum(-1, keepdim=True) * (1 / H) + EPS),
    "sum over the shape": lambda v: v * torch.rsqrt(v.square().sum(-1, True) / v.shape[-1] + EPS),
    "one column less, which a gain makes up for": lambda v: (
        v * torch.rsqrt(v.square().sum(-1, keepdim=True) / (H - 1) + EPS)
    ),
    "rows divided first": lambda v: v * torch.rsqrt((v / H**0.5).square().sum(-1, True) + EPS),
    "unsqueezed in front": lambda v: v * torch.rsqrt(v.pow(2).mean(-1)[..., None] + EPS),
    "unsqueezed behind": lambda v: v * (v * v).mean(-1).add(EPS).rsqrt().unsqueeze(-1),
    "matmul of a row with itself": lambda v: (
        v * torch.rsqrt((v.unsqueeze(-2) @ v.unsqueeze(-1)).squeeze(-1) / H + EPS)
    ),
    "vecdot": lambda v: v * torch.rsqrt(torch.linalg.vecdot(v, v)[..., None] / H + EPS),
    "einsum": lambda v: (
        v * torch.rsqrt(torch.einsum("...h,...h->...", v, v).unsqueeze(-1) / H + EPS)
    ),
    "norm() squared": lambda v: v * torch.rsqrt(v.norm(dim=-1, keepdim=True) ** 2 / H + EPS),
    "vector_norm squared": lambda v: (
        v * torch.rsqrt(torch.linalg.vector_norm(v, dim=-1, keepdim=True).square() / H + EPS)
    ),
    "mean over two dims": lambda v: (
        v * torch.rsqrt(v.unflatten(-1, (4, -1)).square().mean((-2, -1)).unsqueeze(-1) + EPS)
    ),
    "mean of means": lambda v: (
        v * torch.rsqrt(v.unflatten(-1, (4, -1)).square().mean(-1).mean(-1, True) + EPS)
    ),
    "variance and mean": lambda v: (
        v * torch.rsqrt(v.var(-1, correction=0, keepdim=True) + v.mean(-1, True) ** 2 + EPS)
    ),
    "columns first": lambda v: (v.mT * torch.rsqrt(v.mT.square().mean(-2, keepdim=True) + EPS)).mT,
    # What the root is spelled as.
    "over sqrt": lambda v: v / torch.sqrt(ms(v) + EPS),
    "over sqrt of a sum with eps first": lambda v: v / (EPS + ms(v)).sqrt(),
    "reciprocal of sqrt": lambda v: v * torch.sqrt(ms(v) + EPS).reciprocal(),
    "one over sqrt": lambda v: v * (1.0 / torch.sqrt(ms(v) + EPS)),
    "sqrt of one over": lambda v: v * torch.sqrt(1.0 / (ms(v) + EPS)),
    "to the power -1/2": lambda v: v * (ms(v) + EPS) ** -0.5,
    "torch.pow": lambda v: v * torch.pow(ms(v) + EPS, -0.5),
    "over the power 1/2": lambda v: torch.div(v, (ms(v) + EPS).pow(0.5)),
    "eps in place": lambda v: v * ms(v).add_(EPS).rsqrt_(),
    "H inside": lambda v: v * (H / (v.square().sum(-1, keepdim=True) + H * EPS)).sqrt(),
    "two fourth roots": lambda v: v / ((ms(v) + EPS) ** 0.25) / ((ms(v) + EPS) ** 0.25),
    "root first": lambda v: torch.rsqrt(ms(v) + EPS).mul(v),
    "torch's own": lambda v: functional.rms_norm(v, (H,), None, EPS),
    "in float64": lambda v: unit(v.double()).float(),
}
"""Rows over their root mean square, in float32."""


def gained(normalized):
    """As Llama does: float32 inside, the gain behind the cast."""
    return lambda x, g: g * normalized(x.float()).to(x.dtype)


put_all(
    RIGHT,
    {name: gained(normalized) for name, normalized in NORMALIZED.items()},
    *(rows_and_gain, "rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "Llama": lambda x, g: unit(x.float()).type_as(x) * g,
        "gpt-oss": lambda x, g: (unit(x.float()) * g).to(x.dtype),
        "wide gain before the cast": lambda x, g: (unit(x.float()) * g.float()).to(x.dtype),
        "TensorRT-LLM": lambda x, g: (
            (x.float() / (x.float().pow(2.0).mean(-1, keepdim=True) + EPS).sqrt()) * g.float()
        ).to(x.dtype),
        "flax, gain at the root": lambda x, g: (
            x.float() * (torch.rsqrt(ms(x.float()) + EPS) * g.float())
        ).to(x.dtype),
        "T5, half rows and wide root": lambda x, g: (
            g * (x * torch.rsqrt(x.to(F32).pow(2).mean(-1, keepdim=True) + EPS)).to(g.dtype)
        ),
        "over a rounded root": lambda x, g: (
            g * (x / torch.sqrt(x.float().pow(2).mean(-1, keepdim=True) + EPS).to(x.dtype))
        ),
        "half squares": lambda x, g: (
            g * (x * torch.rsqrt(x.pow(2).float().mean(-1, keepdim=True) + EPS)).to(x.dtype)
        ),
        "gain by einsum": lambda x, g: torch.einsum("th,h->th", unit(x.float()).to(x.dtype), g),
        "gain laid out": lambda x, g: unit(x.float()).to(x.dtype) * g.expand_as(x),
        "gain with a number": lambda x, g: (unit(x.float()) * (g.float() * 0.5)).to(x.dtype),
        "torch with a gain": lambda x, g: functional.rms_norm(x, (H,), g, EPS),
        "torch in float32": lambda x, g: functional.rms_norm(
            x.float(), (H,), g.float(), EPS
        ).type_as(x),
        "in rows and back": lambda x, g: (unit(x.reshape(-1, H).float()).to(x.dtype) * g).view(
            x.shape
        ),
    },
    *(rows_and_gain, "rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "sequences": lambda x, g: g * unit(x.float()).to(x.dtype),
        "gain of three dims": lambda x, g: g[None, None] * unit(x.float()).to(x.dtype),
        "sequences in rows and back": lambda x, g: (
            g * unit(x.reshape(-1, H).float()).to(x.dtype)
        ).view(x.shape),
        "Megatron, tokens first": lambda x, g: g * unit(x.transpose(0, 1).float()).to(x.dtype),
        "einops, columns in the middle": lambda x, g: (
            (unit(x.mT.mT.float()).to(x.dtype) * g).transpose(0, 1).contiguous()
        ),
    },
    *(sequences_and_gain, "rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "heads": lambda x, g: (unit(x.float()) * g.float()).to(x.dtype),
        "heads, transposed": lambda x, g: g * unit(x.transpose(1, 2).float()).to(x.dtype),
        "heads of flat rows": lambda x, g: (
            g * unit(x.flatten(2).unflatten(-1, (HEADS, H)).float()).to(x.dtype)
        ),
    },
    *(heads_and_gain, "rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "one plus, behind the cast": lambda x, w: unit(x.float()).to(x.dtype) * (1 + w),
        "one plus, wide": lambda x, w: (unit(x.float()) * (w.float() + 1)).to(x.dtype),
        "one plus, apart": lambda x, w: (lambda n: (n + n * w.float()).to(x.dtype))(
            unit(x.float())
        ),
        "one plus, torch's own": lambda x, w: functional.rms_norm(
            x.float(), (H,), 1.0 + w.float(), EPS
        ).type_as(x),
        "one plus, flax": lambda x, w: (
            x.float() * (torch.rsqrt(ms(x.float()) + EPS) * (1 + w.float()))
        ).to(x.dtype),
        "minus minus one": lambda x, w: (unit(x.float()) * (w.float() - (-1.0))).to(x.dtype),
    },
    *(rows_and_offset, "gemma_rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "without gain": lambda x, g: unit(x.float()).to(x.dtype),
        "Megatron's L2 norm": lambda x, g: (
            lambda v: (v * torch.rsqrt(v.pow(2).mean(-1, True) + EPS)).type_as(x)
        )(x.float()),
        "without gain, torch's own": lambda x, g: functional.rms_norm(x, (H,), eps=EPS),
        "nanochat": lambda x, g: functional.rms_norm(x, (x.size(-1),)),
        "without gain, wide rows only": lambda x, g: (x * torch.rsqrt(ms(x.float()) + EPS)).to(
            x.dtype
        ),
    },
    *(rows_and_gain, "rms_norm_without_gain"),
)


@entry(RIGHT, row_of_gain, "rms_norm", kept=1)
def a_row_of_gain(x, g):
    return g * unit(x.float()).to(x.dtype)


@entry(RIGHT, wide_gain, "rms_norm", kept=1)
def a_float64_gain(x, g):
    return (unit(x.float()) * g).to(x.dtype)


@entry(RIGHT, float32_gain, "rms_norm", kept=1)
def a_float32_gain(x, g):
    return (g * unit(x.float())).to(x.dtype)


@entry(RIGHT, rows_and_gain, "rms_norm_without_gain", kept=1)
def groups_with_a_gain_of_all(x, g):
    return g * unit(x.float().view(-1, 2, H // 2)).view(-1, H).to(x.dtype)


@entry(RIGHT, rows_and_gain, "rms_norm_without_gain", kinds=(F32,), kept=1)
def gain_as_a_diagonal(x, g):
    return unit(x) @ torch.diag(g)


@entry(RIGHT, rows_and_gain, "rms_norm_without_gain")
def x_transformers(x, g):
    return functional.normalize(x, dim=-1) * H**0.5


put_all(
    RIGHT,
    {
        "one plus, by addcmul": lambda x, w: (lambda n: torch.addcmul(n, n, w.float()).to(x.dtype))(
            unit(x.float())
        ),
    },
    *(rows_and_offset, "gemma_rms_norm"),
    dynamic=False,  # torch's own addcmul takes no symbolic sizes in a trace
    kept=1,
)
put_all(
    RIGHT,
    {
        "matmul with ones": gained(
            lambda v: v * torch.rsqrt(v.square() @ v.new_ones(H, 1) / H + EPS)
        ),
    },
    *(rows_and_gain, "rms_norm"),
    left="a sum that is spelled as a matmul with ones is no reduction of rows",
)
put_all(
    RIGHT,
    {
        "root of H outside": gained(
            lambda v: v * H**0.5 * torch.rsqrt(v.square().sum(-1, keepdim=True) + H * EPS)
        ),
    },
    *(rows_and_gain, "rms_norm"),
)
put_all(
    RIGHT,
    {
        "xformers, gain at the rows": lambda x, g: (
            (x.float() * g.float()) * torch.rsqrt(ms(x.float()) + EPS)
        ).to(x.dtype),
    },
    *(rows_and_gain, "rms_norm"),
)
put_all(
    RIGHT,
    {
        "gain squared": lambda x, g: unit(x.float()).to(x.dtype) * (g * g),
        "gain of an exponential": lambda x, g: unit(x.float()).to(x.dtype) * torch.exp(g),
    },
    *(rows_and_gain, "rms_norm"),
)
