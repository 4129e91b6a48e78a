"""Products of int8 rows and an int8 weight, with scales and biases, in bfloat16 in the end."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tests.recognition.spelled.table import BF16, Table, integers, normal, positive, put_all

K, COLUMNS = 64, 96
RIGHT: Table = {}
OF_ONE = {"quant_matmul_static": 1}
"""The scale of a single row is one for all rows."""


def given(kind, tokens):
    """Rows, their scales [tokens], weight [N, K], scales of columns [N], a bias [N]."""
    return (
        integers(tokens, K),
        positive(tokens, seed=6) * 0.01,
        integers(COLUMNS, K, seed=5),
        positive(COLUMNS) * 0.01,
        normal(COLUMNS, kind=kind, seed=7),
    )


def as_stored_by_columns(kind, tokens):
    q, r, w, c, b = given(kind, tokens)
    return q, r, w.t().contiguous(), c, b


def with_integers(kind, tokens):
    """As `given`, the bias in int32."""
    return *given(kind, tokens)[:4], integers(COLUMNS, seed=8).int() * 4


def column_of_scales(kind, tokens):
    """As `given`, the scales of columns [N, 1] in the dtype of the result."""
    q, r, w, c, b = given(kind, tokens)
    return q, r, w, c[:, None].to(kind), b


def one_scale(kind, tokens):
    """As `column_of_scales`, one scale for all rows."""
    q, _, w, c, b = column_of_scales(kind, tokens)
    return q, torch.tensor(0.0234375, dtype=kind), w, c, b


def sequences(kind, tokens):
    q, r, w, c, b = given(kind, 2 * tokens)
    return q.view(2, tokens, K), r.view(2, tokens, 1), w, c, b


def product(q: Tensor, w: Tensor) -> Tensor:
    return torch._int_mm(q, w.t())


SUMS = {
    "_int_mm": product,
    "int32": lambda q, w: q.int() @ w.int().t(),
    "int64": lambda q, w: q.long() @ w.long().t(),
    "float32": lambda q, w: q.float() @ w.float().t(),
    "einsum of int32": lambda q, w: torch.einsum("tk,nk->tn", q.int(), w.int()),
    "einsum of float32": lambda q, w: torch.einsum("tk,nk->tn", q.float(), w.float()),
    "linear": lambda q, w: functional.linear(q.float(), w.float()),
}
put_all(
    RIGHT,
    {
        f"scales behind {name}": lambda q, r, w, c, b, summed=summed: (
            summed(q, w).float() * c * r[:, None]
        ).to(BF16)
        for name, summed in SUMS.items()
    },
    *(given, "quant_matmul_dynamic"),
    kinds=(BF16,),
    kept=3,
    of_one=OF_ONE,
)
put_all(
    RIGHT,
    {
        "rows first": lambda q, r, w, c, b: (product(q, w).float() * r.unsqueeze(-1) * c).to(BF16),
        "both scales first": lambda q, r, w, c, b: (product(q, w) * (r[:, None] * c[None])).to(
            BF16
        ),
        "over the inverse": lambda q, r, w, c, b: (product(q, w) / (1 / c) * r[:, None]).to(BF16),
        "bias": lambda q, r, w, c, b: (product(q, w).float() * r[:, None] * c + b).to(BF16),
        "bias behind the cast": lambda q, r, w, c, b: (
            (product(q, w).float() * r[:, None] * c).to(BF16) + b
        ),
        "bias by addcmul": lambda q, r, w, c, b: torch.addcmul(
            b.float(), product(q, w).float() * r[:, None], c
        ).to(BF16),
        "bfloat16 matmul": lambda q, r, w, c, b: (
            (q.to(BF16) @ w.to(BF16).t()) * r[:, None].to(BF16) * c.to(BF16)
        ),
        "torchao, rounded between scales": lambda q, r, w, c, b: (
            (product(q, w) * r[:, None]).to(BF16) * c.to(BF16)
        ),
        "float64 in between": lambda q, r, w, c, b: (product(q, w).double() * r[:, None] * c).to(
            BF16
        ),
    },
    *(given, "quant_matmul_dynamic"),
    kinds=(BF16,),
    kept=3,
    of_one=OF_ONE,
    dynamic=False,  # torch's own addcmul takes no symbolic sizes in a trace
)
put_all(
    RIGHT,
    {
        "columns alone": lambda q, r, w, c, b: (product(q, w).float() * c).to(BF16),
        "one number and columns": lambda q, r, w, c, b: (product(q, w).float() * (c * 0.02)).to(
            BF16
        ),
        "zero point of a number": lambda q, r, w, c, b: (
            ((q.int() - 3) @ w.int().t()).float() * c
        ).to(BF16),
        "columns and a bias": lambda q, r, w, c, b: (product(q, w).float() * c + b).to(BF16),
        "float16 is no detour": lambda q, r, w, c, b: (
            (q.float() @ w.float().t()) * c.float()
        ).bfloat16(),
    },
    *(given, "quant_matmul_static"),
    kinds=(BF16,),
    kept=3,
)
put_all(
    RIGHT,
    {
        "msmodelslim": lambda q, r, w, c, b: ((product(q, w) + b).float() * c).to(BF16),
        "msmodelslim, float32 sum": lambda q, r, w, c, b: (
            (q.float() @ w.float().t() + b.float()) * c
        ).to(BF16),
    },
    *(with_integers, "quant_matmul_static"),
    kinds=(BF16,),
    kept=3,
)
put_all(
    RIGHT,
    {
        "stored by columns": lambda q, r, w, c, b: (
            torch._int_mm(q, w).float() * r[:, None] * c
        ).to(BF16),
        "stored by columns, float32": lambda q, r, w, c, b: (
            (q.float() @ w.float()) * c * r[:, None]
        ).to(BF16),
    },
    *(as_stored_by_columns, "quant_matmul_dynamic"),
    kinds=(BF16,),
    kept=3,
    of_one=OF_ONE,
)
put_all(
    RIGHT,
    {
        "compressed-tensors": lambda q, r, w, c, b: functional.linear(
            (q.float() * r[:, None]).to(BF16), w.to(BF16) * c
        ),
        "compressed-tensors with a bias": lambda q, r, w, c, b: functional.linear(
            (q.float() * r[:, None]).to(BF16), w.to(BF16) * c, b
        ),
        "weight read back wide": lambda q, r, w, c, b: functional.linear(
            (q.float() * r[:, None]).to(BF16), (w.float() * c).to(BF16)
        ),
        "all read back wide": lambda q, r, w, c, b: functional.linear(
            q.float() * r[:, None], w.float() * c
        ).to(BF16),
        "weight as a matmul's right side": lambda q, r, w, c, b: (
            (q.float() * r[:, None]) @ (w.float() * c).mT
        ).to(BF16),
    },
    *(column_of_scales, "quant_matmul_dynamic"),
    kinds=(BF16,),
    kept=3,
    of_one=OF_ONE,
)
put_all(
    RIGHT,
    {
        "one scale of rows": lambda q, s, w, c, b: functional.linear(
            q.to(BF16) * s, w.to(BF16) * c
        ),
        "one scale of rows, bias": lambda q, s, w, c, b: functional.linear(
            q.to(BF16) * s, w.to(BF16) * c, b
        ),
        "rows read back with an offset": lambda q, s, w, c, b: functional.linear(
            (q.to(BF16) - 3) * s, w.to(BF16) * c
        ),
    },
    *(one_scale, "quant_matmul_static"),
    kinds=(BF16,),
    kept=3,
    bound=4.0,  # the spelling rounds both sides to bfloat16, and the operator nothing
)
put_all(
    RIGHT,
    {
        "sequences": lambda q, r, w, c, b: ((q.float() @ w.float().t()) * c * r).to(BF16),
        "sequences as rows": lambda q, r, w, c, b: (
            (product(q.view(-1, K), w).float() * c * r.view(-1, 1)).to(BF16).view(*q.shape[:2], -1)
        ),
    },
    *(sequences, "quant_matmul_dynamic"),
    kinds=(BF16,),
    kept=3,
)
put_all(
    RIGHT,
    {
        "weight first": lambda q, r, w, c, b: ((w.float() @ q.float().t()).t() * c * r[:, None]).to(
            BF16
        ),
    },
    *(given, "quant_matmul_dynamic"),
    kinds=(BF16,),
    kept=3,
    of_one=OF_ONE,
)
