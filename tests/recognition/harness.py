"""One spelling through recognition: what fires, and whether the numbers stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import Report
from ascend_passes.engine.normalize import normalize
from ascend_passes.ir.graph import Context
from ascend_passes.meaning.recognize import by_meaning
from ascend_passes.passes.deduplicate import deduplicate
from tests.graphs import traced

Spelling = Callable[..., Any]
NARROW = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""One unit in the last place over the largest magnitude of a row."""


def recognized(
    spelling: Spelling,
    inputs: Sequence[Tensor],
    dynamic: bool = False,
    others: Sequence[Tensor] = (),
) -> tuple[fx.GraphModule, Report]:
    """The graph of a spelling after recognition, and what it says; arguments as in `graphs.raw`."""
    gm = traced(spelling, inputs, dynamic, others=others)
    deduplicate(gm.graph, Context())
    report = by_meaning(gm.graph, Context())
    normalize(gm.graph)
    gm.graph.lint()
    gm.recompile()
    return gm, report


def results_of(function: Spelling, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The results of a function, without gradients."""
    with torch.no_grad():
        found = function(*[one.clone() for one in inputs])
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def in_float64(spelling: Spelling, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The spelling's results with every number of its inputs widened, and its casts with them."""
    with Wide():
        return results_of(spelling, [wide(one) for one in inputs])


def wide(tensor: Tensor) -> Tensor:
    """A tensor in the dtype of its kind with the most digits."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


class Wide(torch.overrides.TorchFunctionMode):
    """Casts to floating dtypes become casts to float64."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function in (Tensor.float, Tensor.bfloat16, Tensor.half):
            return args[0].double()
        if function is Tensor.type_as and args[1].is_floating_point():
            return args[0].double()
        named = {name: widened(one) for name, one in (kwargs or {}).items()}
        return function(*map(widened, args), **named)


class Unrounded(Wide):
    """`Wide`, and numbers stay what they are in front of their rounding to integers."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        integral = any(one in (torch.int8, torch.int32) for one in args[1:])
        if function in ROUNDS or (function is Tensor.to and integral):
            return args[0]
        if function in (torch.floor, Tensor.floor):
            return args[0] - 0.5  # what is floored is a half more than what is rounded
        return super().__torch_function__(function, types, args, kwargs)


ROUNDS = (torch.round, Tensor.round, Tensor.round_, torch.special.round, Tensor.char)


def widened(argument: Any) -> Any:
    """float64 in place of a floating dtype."""
    is_kind = isinstance(argument, torch.dtype) and argument.is_floating_point
    return torch.float64 if is_kind else argument


def unrounded(spelling: Spelling, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What the spelling's int8 results are rounded from, in float64."""
    with Unrounded():
        return results_of(spelling, [wide(one) for one in inputs])


def assert_right(found: Spelling, spelling: Spelling, inputs: Sequence[Tensor], bound: float):
    """What a graph gives has the spelling's dtypes, shapes and strides. Floating numbers are within
    `bound` units of their value in float64, or as near as the spelling itself; integers are the
    nearest ones, but for a thousandth at ties."""
    mine, eager = results_of(found, inputs), results_of(spelling, inputs)
    exact = in_float64(spelling, inputs)
    if any(one.dtype == torch.int8 for one in eager):
        exact = unrounded(spelling, inputs)
    for own, theirs, true in zip(mine, eager, exact, strict=True):
        assert (own.dtype, own.shape) == (theirs.dtype, theirs.shape)
        kept = [n for n in range(own.dim()) if own.shape[n] != 1]
        assert [own.stride(n) for n in kept] == [theirs.stride(n) for n in kept]
        if own.is_floating_point():
            assert_near(own, theirs, true.double(), bound)
        else:
            off = (own.double() - true.clamp(-128, 127)).abs().max()
            assert off <= NEAREST, float(off)


def assert_steps(found: Spelling, spelling: Spelling, inputs: Sequence[Tensor]):
    """The integers are the spelling's, but for the dtype that it rounds in: one step."""
    (mine,), (theirs,) = results_of(found, inputs), results_of(spelling, inputs)
    assert mine.dtype == theirs.dtype and (mine.int() - theirs.int()).abs().max() <= 1


NEAREST = 0.501
"""Of a step: half of one, and what float32 adds at a tie."""


def assert_near(own: Tensor, theirs: Tensor, true: Tensor, bound: float) -> None:
    """Both in units in the last place at the largest magnitude of a row."""
    unit = true.abs().amax(-1, keepdim=True).clamp(min=1e-30) * NARROW[own.dtype]
    off = [float(((one.double() - true).abs() / unit).max()) for one in (own, theirs)]
    assert off[0] <= max(bound, 1.2 * off[1]), off
