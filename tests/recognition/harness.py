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
    spelling: Spelling, inputs: Sequence[Tensor], dynamic: bool = False
) -> tuple[fx.GraphModule, Report]:
    """The graph of a spelling after recognition, and what it says."""
    gm = traced(spelling, inputs, dynamic)
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
        if function in (Tensor.to, Tensor.type_as):
            kinds = [one for one in args[1:] if isinstance(one, torch.dtype)]
            if function is Tensor.type_as or (kinds and kinds[0].is_floating_point):
                return args[0].double()
        return function(*args, **(kwargs or {}))


def assert_right(gm: fx.GraphModule, spelling: Spelling, inputs: Sequence[Tensor], bound: float):
    """The graph has the spelling's dtypes, shapes and strides, and is within `bound` units of its
    value in float64, or as near as the spelling itself."""
    found, eager = results_of(gm, inputs), results_of(spelling, inputs)
    exact = in_float64(spelling, inputs)
    for mine, theirs, true in zip(found, eager, exact, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        kept = [n for n in range(mine.dim()) if mine.shape[n] != 1]
        assert [mine.stride(n) for n in kept] == [theirs.stride(n) for n in kept]
        if not mine.is_floating_point():
            apart = (mine.int() - theirs.int()).abs()
            assert apart.max() <= 1 and (apart > 0).double().mean() <= 0.02
            continue
        unit = true.double().abs().amax(-1, keepdim=True).clamp(min=1e-30) * NARROW[mine.dtype]
        mine_off = ((mine.double() - true).abs() / unit).max()
        theirs_off = ((theirs.double() - true).abs() / unit).max()
        assert mine_off <= max(bound, 1.2 * theirs_off), (float(mine_off), float(theirs_off))
