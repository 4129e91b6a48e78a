"""A graph computed in float64, and distances between results in the units of a rule's tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from ascend_passes import npu
from ascend_passes.verify.alike_ranks import alike_ranks

aten = torch.ops.aten
NARROWING = (Tensor.float, Tensor.half, Tensor.bfloat16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the same kind with the most digits; integers stay."""
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


def grouped_product(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """The rows of each group times its weight; those behind the last end are left as they are."""
    result, start = rows.new_empty(rows.shape[0], weights.shape[-1]), 0
    for weight, end in zip(weights, ends.tolist(), strict=True):
        torch.mm(rows[start:end], weight, out=result[start:end])
        start = end
    return result


class Widened(TorchFunctionMode):
    """References of NPU operators cast to float32 inside; here these casts go to float64."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function in NARROWING:
            return args[0].double()
        if function is Tensor.to:
            args = tuple(wide(one) if isinstance(one, torch.dtype) else one for one in args)
        return function(*args, **(kwargs or {}))


class Exact(fx.Interpreter):
    """Runs a graph with every floating dtype in it widened."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The operator on widened arguments; that of the NPU by its reference."""
        kwargs = {
            k: wide(one) if isinstance(one, torch.dtype) else one for k, one in kwargs.items()
        }
        operator = npu.operator_of(target)
        if target is aten._grouped_mm.default and len(args) == 3 and args[1].dim() == 3:
            return grouped_product(*args)  # torch's own takes no float64
        if operator is None:
            return super().call_function(target, args, kwargs)
        with Widened():
            return operator.reference(*args, **kwargs)


def run_graph(gm: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The results of a graph on real inputs."""
    with torch.no_grad(), alike_ranks():
        results = gm(*inputs)
    return tuple(results) if isinstance(results, (list, tuple)) else (results,)


def run_exactly(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The results of a graph in float64; integers are those of the float64 values, rounded once."""
    return run_graph(Exact(gm).run, [tensor.to(wide(tensor.dtype)) for tensor in inputs])


def unit(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place of `dtype` at the largest magnitude of each row; 1 for integers.

    A row is the last dim. Sums inside a row may cancel, so an element's own unit says nothing.
    """
    if not exact.dtype.is_floating_point:
        return torch.ones((), dtype=torch.float64)
    kind = torch.finfo(dtype)
    largest = exact.abs().amax(-1, keepdim=True).clamp(min=kind.smallest_normal)
    exponent = torch.frexp(largest).exponent - 1
    return torch.ldexp(torch.full_like(largest, kind.eps), exponent)


def magnitude(tensor: Tensor, rows: bool = False) -> Tensor:
    """The largest magnitude that is a number, of a whole tensor or of each row."""
    sizes = tensor.detach().abs().double().nan_to_num(posinf=0.0)
    return sizes.amax(-1, keepdim=True) if rows and sizes.dim() else sizes.max()


def distance(wanted: Tensor, found: Tensor, step: Tensor) -> float:
    """Largest difference in steps; two that are no number are equal, one beside a number is
    endlessly far."""
    if not wanted.numel():
        return 0.0
    kind = torch.complex128 if wanted.is_complex() else torch.float64
    one, other = wanted.detach().to(kind), found.detach().to(kind)
    same = (one == other) | (one.isnan() & other.isnan())
    steps = (one - other).abs() / step.clamp(min=torch.finfo(torch.float64).tiny)
    return float(torch.where(same, 0.0, steps).nan_to_num(nan=torch.inf, posinf=torch.inf).max())
