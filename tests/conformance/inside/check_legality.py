"""Our legality tables against the wheel: what it fuses or takes outside them, and we refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ascend_passes import npu
from tests.conformance import wheel_faults
from tests.conformance.inside import attention, fusions, kernels, table, wheel

BFLOAT16, HALF, SINGLE = torch.bfloat16, torch.float16, torch.float32
QUANT = "npu_add_rms_norm_quant"
DYNAMIC = "npu_add_rms_norm_dynamic_quant"
CAST = "npu_add_rms_norm_cast"
TRIED = (HALF, BFLOAT16, SINGLE, torch.float64, torch.int8, torch.uint8, torch.int32, torch.int64)
ANY_DTYPE = {"npu_prefetch"}
"""Operators that move bytes: no documented dtype table."""
SOC = "Ascend910B"


@pytest.fixture(scope="module", autouse=True)
def recorder():
    references = {o.qualified_name: o.reference for o in npu.OPERATORS.values()}
    return kernels.install({**references, **attention.REFERENCES})


def norm_inputs(dtype: torch.dtype, gain: torch.dtype, *shape: int) -> tuple[Tensor, ...]:
    """x, residual and gamma; gamma spans all dims of `shape` but the first."""
    x = torch.randn(*shape, dtype=dtype)
    return x, torch.randn_like(x), torch.ones(shape[1:], dtype=gain)


@pytest.mark.parametrize(
    ("name", "inputs", "reason"),
    [
        (QUANT, (*norm_inputs(HALF, HALF, 4, 32), SINGLE, torch.int32), ""),
        (QUANT, (*norm_inputs(BFLOAT16, BFLOAT16, 4, 32), BFLOAT16, BFLOAT16), ""),
        (
            QUANT,
            (*norm_inputs(BFLOAT16, BFLOAT16, 4, 32), SINGLE, torch.int32),
            "scales1 is float32 but must be bfloat16",
        ),
        (
            QUANT,
            (*norm_inputs(BFLOAT16, BFLOAT16, 4, 32), SINGLE, BFLOAT16),
            "scales1 is float32 but must be bfloat16",
        ),
        (
            QUANT,
            (*norm_inputs(HALF, HALF, 4, 32), BFLOAT16, torch.int32),
            "scales1 is bfloat16 but must be float32",
        ),
        (
            QUANT,
            (*norm_inputs(BFLOAT16, BFLOAT16, 4, 32), BFLOAT16, torch.zeros(1, dtype=BFLOAT16)),
            "zero_points1 has shape",
        ),
        (DYNAMIC, (*norm_inputs(HALF, HALF, 4, 32), HALF), ""),
        (DYNAMIC, (*norm_inputs(BFLOAT16, BFLOAT16, 4, 32), BFLOAT16), ""),
        (
            DYNAMIC,
            (*norm_inputs(SINGLE, SINGLE, 4, 32), SINGLE),
            "x1 is float32 but must be float16 or bfloat16",
        ),
        (
            DYNAMIC,
            (*norm_inputs(BFLOAT16, BFLOAT16, 4, 32), SINGLE),
            "smooth_scale1 is float32 but must be bfloat16",
        ),
        (
            DYNAMIC,
            (*norm_inputs(HALF, HALF, 4, 2, 32), torch.ones(32, dtype=HALF)),
            "gamma has 2 dims but must have 1",
        ),
        (CAST, norm_inputs(HALF, HALF, 4, 32), ""),
        (CAST, norm_inputs(BFLOAT16, BFLOAT16, 4, 32), ""),
        (
            CAST,
            norm_inputs(BFLOAT16, SINGLE, 4, 32),
            "gamma is float32 but must be bfloat16",
        ),
    ],
)
def test_the_wheel_fuses_where_the_documented_table_refuses(name, inputs, reason):
    tensors = tuple(
        value if isinstance(value, Tensor) else torch.ones(32, dtype=value) for value in inputs
    )
    assert fusions.emitted_by_the_wheel(name, *(t.to(kernels.DEVICE) for t in tensors))
    found = fusions.refusals(name, *tensors)
    assert reason in "; ".join(found) if reason else not found


def test_every_operator_that_the_wheel_can_emit_is_shown():
    marks = test_the_wheel_fuses_where_the_documented_table_refuses.pytestmark
    refused = {name for name, _, reason in marks[0].args[1] if reason}
    assert refused == set(fusions.FUSABLE)


def refusals(name: str, given: dict[str, object]) -> set[str]:
    """The reasons of our table against a call, by argument names."""
    return {reason for holds, reason in npu.legality(name, given, SOC) if not holds}


def with_other_dtypes(name: str) -> Iterator[tuple[str, bool, bool]]:
    """(argument and dtype, whether the wheel's Meta takes it, whether our table does).

    Each tensor of a call that both take gets every other dtype in turn.
    """
    operator = npu.OPERATORS[name]
    call = table.call_of(operator)
    names = [argument.name for argument in wheel.overload(operator)._schema.arguments]
    given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    base = refusals(name, given)
    for key, tensor in given.items():
        if not isinstance(tensor, Tensor):
            continue
        for dtype in set(TRIED) - {tensor.dtype}:
            other = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="meta")
            changed = {**given, key: other}
            yield f"{key} {dtype}", meta_takes(name, changed), refusals(name, changed) <= base


def meta_takes(name: str, given: dict[str, object]) -> bool:
    """Whether the wheel's Meta function gives an answer for a call."""
    try:
        wheel.overload(npu.OPERATORS[name])(**given)
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("name", sorted(set(npu.of_cann()) - set(wheel_faults.NO_META)))
def test_our_table_refuses_dtypes_that_meta_takes_and_never_the_reverse(name):
    tried = list(with_other_dtypes(name))
    assert [what for what, theirs, ours in tried if ours and not theirs] == []
    differ = [what for what, theirs, ours in tried if theirs and not ours]
    assert bool(differ) == (name not in ANY_DTYPE), differ
