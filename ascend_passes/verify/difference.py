"""How far the two sides of a rule are apart, and whether its tolerance allows that."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from ascend_passes.verify.exact import distance, run_exactly, run_graph, unit
from ascend_passes.verify.trial import SCALES, Trial

INT8_STEPS = 127
"""Steps of int8 from zero to its largest value."""


def differences(trial: Trial, before: fx.GraphModule, after: fx.GraphModule) -> Iterator[str]:
    """How the replacement's results differ from the pattern's beyond the rule's tolerance."""
    for scale in SCALES:
        inputs = trial.inputs(scale)
        columns = run_graph(before, inputs), run_graph(after, inputs), run_exactly(before, inputs)
        if scale != SCALES[0] and not any(old.dtype == torch.int8 for old in columns[0]):
            return
        for index, (old, new, true) in enumerate(zip(*columns, strict=True)):
            sentence = difference(trial, old, new, true)
            if sentence is not None:
                yield f"result {index} {sentence} ({trial})"


def difference(trial: Trial, old: Tensor, new: Tensor, true: Tensor) -> str | None:
    """How one result differs, or None.

    The replacement must not be further from float64 than the rule's tolerance, or than the pattern
    itself is where that is more. An endless tolerance is for a pattern that quantizes or rounds
    inside: one step of int8 is added to its own distance.
    """
    sentence = other_kind(old, new)
    if sentence is not None:
        return sentence
    if old.is_complex():
        old, new, true = (torch.view_as_real(tensor) for tensor in (old, new, true))
    whole = not old.dtype.is_floating_point
    step = unit(true, old.dtype if whole else max((old.dtype, trial.dtype), key=precision))
    pattern_error, error = distance(old, true, step), distance(new, true, step)
    endless = math.isinf(trial.rule.tolerance)
    bound = max(pattern_error, 1.0 if whole and endless else trial.rule.tolerance)
    if math.isinf(bound):
        steps = true.abs().amax(-1, keepdim=True) / INT8_STEPS / step
        bound = pattern_error + float(steps.max())
    if error <= bound < math.inf:
        return None
    return (
        f"is {error:.3g} {'LSB' if whole else 'ULP'} from float64, "
        f"the pattern is {pattern_error:.3g}, allowed are {bound:.3g}"
    )


def other_kind(old: Tensor, new: Tensor) -> str | None:
    """How dtype, shape or strides of one result differ, or None."""
    if (old.shape, old.dtype, layout(old)) == (new.shape, new.dtype, layout(new)):
        return None
    return f"was {described(old)} and is {described(new)}"


def described(tensor: Tensor) -> str:
    """Dtype, shape and strides in words."""
    return f"{tensor.dtype} of shape {list(tensor.shape)} with strides {list(tensor.stride())}"


def precision(dtype: torch.dtype) -> float:
    """The relative size of a dtype's last place."""
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def layout(tensor: Tensor) -> list[int]:
    """The strides that mean something: those of dims that are not 1."""
    return [s for s, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1]
