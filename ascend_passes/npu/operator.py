"""What an operator of the NPU set is: schema, shapes, numbers and documented limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ascend_passes.ir.proof import prove
from ascend_passes.ir.traits import Traits
from ascend_passes.npu.accuracy import Bound

Arguments = Mapping[str, Any]
"""Schema argument name -> its value; every argument is there, defaults filled in."""
Condition = tuple[bool, str]
"""Whether a documented condition holds, and the sentence that says why not."""
Conditions = Iterator[Condition]

A2, A3, A5 = "Ascend910B", "Ascend910_93", "Ascend910_95"
"""The device families as CANN names them: Atlas A2, Atlas A3, and Ascend 950."""

CODES: Mapping[int, torch.dtype] = {
    0: torch.uint8,
    1: torch.int8,
    3: torch.int32,
    4: torch.int64,
    5: torch.float16,
    6: torch.float32,
    12: torch.int8,
    13: torch.uint8,
    14: torch.int32,
    15: torch.bfloat16,
}
"""torch's ScalarType codes in `int` arguments. Quantized types are stored as plain integers.

torch_npu adds codes of its own from 285 on (int4, hifloat8, float4); none of them is known here.
"""
INT8_CODES = (1, 12)
HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32)
"""What most operators of floats take: half precisions alone, or float32 as well."""
OWN = "ascend_passes"
"""The namespace of operators that CANN does not have: a reference, and a kernel of ours."""


Example = Callable[[torch.Generator, int, int, torch.dtype], dict[str, Any]]
"""The arguments by name of a legal call: tokens, half the columns, and a half precision."""


@dataclass(frozen=True, eq=False)
class Operator(Traits):
    """One operator: all that the package knows of it. Tests, limits, costs, FlashComm, accuracy and
    the generated pages read what stands here; `docs/add-an-operator.md` goes through it."""

    name: str
    schema: str
    """Everything after `namespace::`, as torch_npu 2.13 registers it."""
    fake: Callable[..., Any]
    """The result as empty tensors: shapes, dtypes and strides, for symbolic sizes too."""
    reference: Callable[..., Any]
    """The result in plain torch, with the rounding of Atlas A2, on any device."""
    limits: Callable[[Arguments, str], Conditions]
    """The documented conditions on `(arguments, soc)`, each with the reason it fails for."""
    source: str
    """The documentation that shapes, numbers and limits come from."""
    namespace: str = "npu"
    accuracy: tuple[Bound, ...] | str = ""
    """How far each result of the reference may be from float64; in words where no number of units
    says it."""
    exact: Callable[..., tuple[Tensor, ...]] | None = None
    """The formula in float64, on the arguments as they are: a result for each of `accuracy`."""
    example: Example | None = None
    """A legal call on random numbers, from which tests of the operator are made."""
    traceable: bool = True
    """Whether the reference can be traced; not where it reads numbers on the host."""
    converter: str = ""
    """The node of CANN's graph IR that torchair makes of a call; "" where it has no converter."""

    @property
    def qualified_name(self) -> str:
        """`namespace::name`."""
        return f"{self.namespace}::{self.name}"


def dtype_of(code: int | torch.dtype | None, default: torch.dtype) -> torch.dtype:
    """The dtype of a code argument; `default` where none is given.

    Raises:
        ValueError: a code that this operator set does not know.
    """
    if code is None:
        return default
    if isinstance(code, torch.dtype):
        return code
    if code not in CODES:
        raise ValueError(f"dtype code {code} is not one of {sorted(CODES)}")
    return CODES[code]


def require(condition: Any, reason: str) -> Condition:
    """A condition as a yield of `limits`; one on symbolic sizes holds only where it is proved."""
    if isinstance(condition, bool):
        return condition, reason
    if prove(condition):
        return True, reason
    return False, f"{reason}; the sizes are symbolic and it cannot be proved"


def require_dtype(name: str, tensor: Tensor, allowed: tuple[torch.dtype, ...]) -> Condition:
    """`tensor` has one of these dtypes."""
    names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
    found = str(tensor.dtype).removeprefix("torch.")
    return tensor.dtype in allowed, f"{name} is {found} but must be {names}"


def require_shape(name: str, tensor: Tensor, shape: tuple[Any, ...], meaning: str) -> Condition:
    """`tensor` has exactly this shape, which `meaning` explains."""
    reason = f"{name} has shape {list(tensor.shape)} but must have {meaning}, {list(shape)}"
    if tensor.dim() != len(shape):
        return False, reason
    return require(
        all_of(found == wanted for found, wanted in zip(tensor.shape, shape, strict=True)), reason
    )


def require_absent(name: str, value: Any, why: str) -> Condition:
    """The optional argument is not given."""
    return value is None, f"{name} is given but {why}"


def all_of(conditions: Iterator[Any]) -> bool:
    """Whether all conditions hold, symbolic ones provably."""
    return all(map(prove, conditions))


def is_soc(soc: str, *families: str) -> bool:
    """Whether a chip name such as `Ascend910B1` belongs to one of the families."""
    return any(soc.startswith(family) for family in families) or (A5 in families and "950" in soc)


def require_soc(soc: str, *families: str) -> Condition:
    """The chip belongs to one of the families."""
    return is_soc(soc, *families), f"the operator exists on {', '.join(families)}, not on {soc}"


def empty(like: Tensor, shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous result on the device of `like`: the kernels allocate all results so."""
    return like.new_empty(tuple(shape), dtype=dtype or like.dtype)
