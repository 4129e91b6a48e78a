"""GeGLU: half of the columns, times the GELU of the other half; float32 inside, rounded once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.accuracy import ONE_ROUNDING, ULP, Bound, halves
from ascend_passes.npu.operator import (
    A2,
    A3,
    FLOATS,
    Arguments,
    Conditions,
    Operator,
    empty,
    is_soc,
    require,
    require_dtype,
)

ERF, TANH = 0, 1
"""`approximate`: the exact GELU, and the one that takes a tanh for the error function."""
MOST_DIMS = 8
CUBIC = 0.044715
"""Weight of the cube in the argument of the tanh."""
EXPONENT = 32.0
"""ULP of float32 for gates above -5: the argument of the exponential is rounded before it."""


def gelu(x: Tensor, approximate: int) -> Tensor:
    """GELU in the dtype of x, in a form that does not cancel for gates below 0."""
    if approximate == TANH:
        part = torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + CUBIC * x * x * x))
    else:
        part = 0.5 * torch.special.erfc(-x * math.sqrt(0.5))
    return x * part


def halves_of(x: Tensor, dim: int, activate_left: bool) -> tuple[Tensor, Tensor]:
    """The half that is activated and the other one."""
    left, right = x.chunk(2, dim)
    return (left, right) if activate_left else (right, left)


def geglu(
    input: Tensor, dim: int = -1, approximate: int = TANH, activate_left: bool = False
) -> tuple[Tensor, Tensor]:
    """(`gelu(one half) * other half`, `gelu(one half)`)."""
    gate, up = halves_of(input.float(), dim, activate_left)
    active = gelu(gate, approximate)
    return tuple(t.to(input.dtype).contiguous() for t in (active * up, active))  # type: ignore[return-value]


def exact_geglu(
    input: Tensor, dim: int = -1, approximate: int = TANH, activate_left: bool = False
) -> tuple[Tensor, Tensor]:
    """The formulas of the documentation; the gate stays above where `1 + tanh` cancels."""
    gate, up = halves_of(input.double(), dim, activate_left)
    if approximate == TANH:
        inner = 1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + CUBIC * gate**3))
    else:
        inner = 1 + torch.erf(gate / math.sqrt(2))
    return 0.5 * gate * inner * up, 0.5 * gate * inner


def fake_geglu(input: Tensor, dim: int = -1, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Two of the input's shape with `dim` halved."""
    shape: list[Any] = list(input.shape)
    shape[dim] = shape[dim] // 2
    return empty(input, shape), empty(input, shape)


def geglu_limits(arguments: Arguments, soc: str) -> Conditions:
    """A2 and A3: 1 to 8 dims, an even one halved, the GELU by erf or by tanh."""
    x, dim, approximate = (arguments[name] for name in ("input", "dim", "approximate"))
    yield is_soc(soc, A2, A3), f"the limits on {soc} are not known here"
    yield require_dtype("input", x, FLOATS)
    yield 1 <= x.dim() <= MOST_DIMS, f"input has {x.dim()} dims but must have 1 to {MOST_DIMS}"
    yield approximate in (ERF, TANH), f"approximate is {approximate}, not 0 (erf) or 1 (tanh)"
    inside = -x.dim() <= dim < x.dim()
    yield inside, f"dim {dim} is outside a tensor of {x.dim()} dims"
    if inside:
        yield require(
            x.shape[dim] % 2 == 0, f"dim {dim} has size {x.shape[dim]}, which is not even"
        )


def example(source: torch.Generator, rows: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Rows of both halves, with either GELU of either half."""
    approximate, left = torch.randint(2, (2,), generator=source).tolist()
    x = torch.randn(rows, 2 * width, generator=source).clamp(min=-5).to(dtype)
    return {"input": x, "dim": -1, "approximate": approximate, "activate_left": bool(left)}


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_geglu",
        "npu_geglu(Tensor input, int dim=-1, int approximate=1, bool activate_left=False)"
        " -> (Tensor, Tensor)",
        fake_geglu,
        geglu,
        geglu_limits,
        "torch_npu.npu_geglu; aclnnGeGluV3",
        rows=("input",),
        columns=("dim",),
        activation=True,
        accuracy=(
            Bound("y", ULP, halves(ONE_ROUNDING, EXPONENT)),
            Bound("gelu", ULP, halves(ONE_ROUNDING, EXPONENT)),
        ),
        exact=exact_geglu,
        example=example,
        converter="GeGluV2",
    ),
)
