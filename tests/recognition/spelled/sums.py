"""A residual sum with a norm behind it; results are the norm and, where it goes on, the sum."""

from __future__ import annotations

import torch
from torch.nn import functional

from tests.recognition.spelled.norms import EPS, H, unit
from tests.recognition.spelled.table import BF16, F32, Table, normal, positive, put_all

RIGHT: Table = {}


def rows(kind, tokens):
    x, residual = (normal(tokens, H, kind=kind, seed=seed) for seed in (0, 4))
    return x, residual, positive(H, kind=kind)


def sequences(kind, tokens):
    x, residual = (normal(2, tokens, H, kind=kind, seed=seed) for seed in (0, 4))
    return x, residual, positive(H, kind=kind)


def wide_residual(kind, tokens):
    x, residual, gain = rows(kind, tokens)
    return x, residual.float(), gain


def one_residual(kind, tokens):
    x, residual, gain = rows(kind, tokens + 1)
    return x, residual[:1], gain


def llama(total, g):
    return g * unit(total.float()).to(total.dtype)


def both(summed):
    """The norm of a sum, and the sum."""

    def spelling(x, residual, g):
        total = summed(x, residual)
        return llama(total, g), total

    return spelling


def written(x, r):
    total = torch.empty_like(r)
    total.copy_(r)
    return total.add_(x)


SUMS = {
    "plus": lambda x, r: x + r,
    "residual first": lambda x, r: r + x,
    "torch.add": lambda x, r: torch.add(x, r),
    "torch.add with alpha": lambda x, r: torch.add(x, r, alpha=1),
    "method": lambda x, r: x.add(r),
    "method of the residual": lambda x, r: r.add(x),
    "in place on a copy": lambda x, r: r.clone().add_(x),
    "into a buffer": written,
    "stack and sum": lambda x, r: torch.stack((x, r)).sum(0),
    "stack behind and sum": lambda x, r: torch.stack((x, r), -1).sum(-1),
    "Python's sum": lambda x, r: sum((x, r)),
    "wide": lambda x, r: (x.float() + r.float()).to(x.dtype),
    "wide, by type_as": lambda x, r: x.float().add(r.float()).type_as(x),
    "dropout that is off": lambda x, r: r + functional.dropout(x, 0.1, training=False),
    "times one": lambda x, r: r + 1.0 * x,
}
put_all(
    RIGHT,
    {name: both(summed) for name, summed in SUMS.items()},
    *(rows, "rms_norm", "add_rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "the sum goes nowhere": lambda x, r, g: llama(x + r, g),
        "torch's norm": lambda x, r, g: (lambda t: (functional.rms_norm(t, (H,), g, EPS), t))(
            x + r
        ),
        "vLLM, wide sum": lambda x, r, g: (lambda t: (unit(t).to(x.dtype) * g, t.to(x.dtype)))(
            x.float() + r.float()
        ),
        "SGLang, gain in float32": lambda x, r, g: (
            lambda t: ((unit(t) * g.float()).to(x.dtype), t.to(x.dtype))
        )(x.to(F32) + r.to(F32)),
        "flat rows": lambda x, r, g: (lambda t: (llama(t.view(-1, H), g), t))(x + r),
    },
    *(rows, "rms_norm", "add_rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "sequences": both(lambda x, r: x + r),
    },
    *(sequences, "rms_norm", "add_rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "one plus": lambda x, r, g: (
            lambda t: ((unit(t.float()) * (1 + g.float())).to(t.dtype), t)
        )(x + r),
    },
    *(rows, "gemma_rms_norm", "add_gemma_rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "float32 residuals": lambda x, r, g: (lambda t: (unit(t).to(x.dtype) * g, t))(
            x.float() + r
        ),
    },
    *(wide_residual, "rms_norm", "add_rms_norm"),
    kinds=(BF16,),
    kept=1,
)
put_all(
    RIGHT,
    {"one residual of all rows": both(lambda x, r: x + r)},
    *(one_residual, "rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "minus the negative": both(lambda x, r: r - (-x)),
        "sub with alpha": both(lambda x, r: torch.sub(r, x, alpha=-1)),
        "lists of tensors": both(lambda x, r: torch._foreach_add([x], [r])[0]),
    },
    *(rows, "rms_norm", "add_rms_norm"),
    kept=1,
)
put_all(
    RIGHT,
    {
        "sequences, tokens first": lambda x, r, g: (lambda t: (llama(t, g), t))(
            x.transpose(0, 1) + r.transpose(0, 1)
        ),
    },
    *(sequences, "rms_norm", "add_rms_norm"),
    kept=1,
    left="a view between the sum and the norm that recognition moves behind the norm stays there",
)
