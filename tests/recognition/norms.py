"""RMSNorm composed of its parts: each part in several right spellings, and in wrong ones."""

from __future__ import annotations

import torch
from torch import Tensor

H, EPS = 32, 1e-6
SQUARES = {
    "pow": lambda v: v.pow(2),
    "v*v": lambda v: v * v,
    "square": lambda v: v.square(),
    "abs": lambda v: v.abs() ** 2,
    "exp2": lambda v: (v.abs() + 0.0).pow(2.0),
}
MEANS = {
    "mean": lambda s: s.mean(-1, keepdim=True),
    "sum/H": lambda s: s.sum(-1, keepdim=True) / H,
    "sum*1/H": lambda s: s.sum(-1, keepdim=True) * (1 / H),
    "unsqueezed": lambda s: s.mean(-1).unsqueeze(-1),
    "flipped": lambda s: s.flip(-1).mean(-1, keepdim=True),
    "in parts": lambda s: (s[..., : H // 2].sum(-1, True) + s[..., H // 2 :].sum(-1, True)) / H,
}
ROOTS = {
    "rsqrt": lambda v, m: v * torch.rsqrt(m + EPS),
    "sqrt": lambda v, m: v / torch.sqrt(m + EPS),
    "reciprocal": lambda v, m: v * torch.sqrt(m + EPS).reciprocal(),
    "power": lambda v, m: v * (m + EPS) ** -0.5,
    "power/": lambda v, m: v / (m + EPS).pow(0.5),
    "exp": lambda v, m: v * torch.exp(-0.5 * torch.log(m + EPS)),
    "first": lambda v, m: torch.rsqrt(EPS + m) * v,
}
GAINS = {
    "after": lambda n, g, kind: g * n.to(kind),
    "before": lambda n, g, kind: (n * g.float()).to(kind),
    "promoted": lambda n, g, kind: (g * n).to(kind),
    "none": lambda n, g, kind: n.to(kind),
    "one plus": lambda n, g, kind: (n * (1 + g.float())).to(kind),
    "plus itself": lambda n, g, kind: (n + n * g.float()).to(kind),
    "row": lambda n, g, kind: (n * g.float()[None]).to(kind),
    "expanded": lambda n, g, kind: n.to(kind) * g.expand(n.shape),
    "addcmul": lambda n, g, kind: torch.addcmul(n, n, g.float()).to(kind),
}
WRONG = {
    "SQUARES": {"cube": lambda v: v.abs() ** 3, "centred": lambda v: (v - v.mean(-1, True)) ** 2},
    "MEANS": {
        "half": lambda s: s[..., : H // 2].sum(-1, True) / H,
        "largest": lambda s: s.amax(-1, keepdim=True),
        "rows": lambda s: s.mean(0, keepdim=True),
    },
    "ROOTS": {
        "no root": lambda v, m: v / (m + EPS),
        "outside": lambda v, m: v * (torch.rsqrt(m) + 1e-3),
        "times": lambda v, m: v * torch.sqrt(m + EPS),
        "negative": lambda v, m: v * torch.rsqrt(m - 1e-3),
        "of magnitudes": lambda v, m: v / v.abs().mean(-1, keepdim=True),
        "twice": lambda v, m: v * torch.rsqrt(m + EPS) * v.abs().amax(-1, True) * torch.rsqrt(m),
        "larger": lambda v, m: v * torch.rsqrt(torch.maximum(m, m.new_full((), 1e-2))),
    },
}
"""Parts that make another function of the whole."""


def norm(square, mean, root, gain):
    """The spelling of four parts."""

    def spelling(x: Tensor, g: Tensor) -> Tensor:
        v = x.float()
        return gain(root(v, mean(square(v))), g, x.dtype)

    return spelling


LAYOUTS = {
    "rows": lambda x: x,
    "tokens": lambda x: x.view(2, -1, H),
    "heads": lambda x: x.view(2, -1, 2, H).transpose(1, 2),
    "part": lambda x: torch.cat((x, x), -1)[:, :H],
}
"""Where the rows come from."""
