"""What runs on every rank: a row-parallel product, its sum over ranks, residual and norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import vllm_operators
from cases import compiled
from stacks import normalized, shared
from torch import Tensor

import ascend_passes
from ascend_passes import npu
from ascend_passes.npu.matmul_all_reduce_norm import OPERATOR
from tests.numerics import ulp_distance

DEPTH = 96
ROUNDED = 2.0**-8
"""Half a unit of bfloat16, relative, and the most that float32 adds for as few columns."""


@dataclass(frozen=True)
class Normed:
    """One case on one rank."""

    operators: tuple[str, ...]
    """Those of the rewritten graph that sum over ranks."""
    misses: tuple[str, ...]
    sum_error: float
    """Of what the roundings of the products and of the sum allow."""
    norm_error: float
    """ULP of the norm from float64, on the sum that came out."""
    y: Tensor


@dataclass(frozen=True)
class Case:
    """A layer, and how it is compiled."""

    shape: tuple[int, ...] = (600,)
    columns: int = 64
    bias: str = ""
    """"" for none, `all`, or `first` for the first rank alone."""
    shared: bool = False
    """Whether the sum over ranks is a result as well."""
    last: bool = False
    """Whether nobody reads the sum with the residual."""
    turned: bool = False
    """Whether the weight lies as `[K, N]`."""
    dtype: torch.dtype = torch.bfloat16
    vllm: bool = False
    """Whether vLLM's operator sums over the ranks."""
    dynamic: bool = False
    """Whether the graph serves other numbers of rows too."""
    tokens: int = 512


def run(case: Case, options: dict[str, Any]) -> Normed:
    """A case on this rank: what became of it, and how far it is from float64."""
    npu.register_operators(OPERATOR)  # as vllm-ascend's library would
    x, weight, bias, residual, gain = operands(case)
    group = dist.group.WORLD.group_name

    def layer(x: Tensor, residual: Tensor) -> tuple[Tensor, ...]:
        part = x @ weight if case.turned else torch.nn.functional.linear(x, weight, bias)
        total = (
            torch.ops.vllm.all_reduce(part, vllm_operators.GROUP)
            if case.vllm
            else functional.all_reduce(part, "sum", group)
        )
        summed = total + residual
        results = [normalized(summed, gain)]
        return (*results, *([] if case.last else [summed]), *([total] if case.shared else []))

    chosen = {"flashcomm": False, "matmul_all_reduce": True}
    chosen |= {"matmul_reduce_scatter_tokens": case.tokens} | options
    for one in (x, residual) if case.dynamic else ():
        torch._dynamo.mark_dynamic(one, 0)
    y, *others = compiled(layer, chosen, None)(x, residual)
    (report,) = ascend_passes.reports()
    exact, allowed = exact_sum(case, x, weight, bias, residual)
    summed = others[0] if not case.last else exact.to(case.dtype)
    wide = summed.double()
    rooted = (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    return Normed(
        tuple(sorted(k.operator for k in report.after if k.collective)),
        tuple(miss.reason for miss in report.misses if miss.rule == "matmul_all_reduce_norm"),
        float(((wide - exact).abs() / allowed).max()),
        ulp_distance(y, wide * rooted * gain.double()),
        y,
    )


def operands(case: Case) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """This rank's rows, weight and bias; residual and gain of all."""
    torch.manual_seed(11 + dist.get_rank())
    columns = case.columns
    x, weight = torch.randn(*case.shape, DEPTH), torch.randn(columns, DEPTH) / DEPTH**0.5
    bias = torch.randn(columns) if case.bias else None
    if case.bias == "first" and dist.get_rank():
        bias = None
    residual, gain = shared(torch.randn(*case.shape, columns)), shared(torch.rand(columns) + 0.5)
    weight = weight.t().contiguous() if case.turned else weight
    found = (x, weight, bias, residual, gain)
    return tuple(None if one is None else one.to(case.dtype) for one in found)  # type: ignore[return-value]


def exact_sum(
    case: Case, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum of all ranks' products and the residual in float64, and how far one may be."""
    partial = x.double() @ (weight if case.turned else weight.t()).double()
    partial = partial if bias is None else partial + bias.double()
    both = torch.stack([partial, partial.abs()])
    dist.all_reduce(both)
    exact = both[0] + residual.double()
    return exact, ROUNDED * 1.01 * (both[1] + exact.abs())
