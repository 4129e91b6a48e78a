"""A model's arithmetic in float64, the yardstick for the rounding of everything else."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from ascend_passes.models.generate import Progress, logits_of, new_cache, quiet


class InDouble(TorchFunctionMode):
    """Every request for float32 becomes one for float64, so that no norm or table rounds early."""

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `function` with float32 replaced in its arguments."""
        if function is Tensor.float:
            return arguments[0].double()
        given = [widened(argument) for argument in arguments]
        return function(*given, **{name: widened(v) for name, v in (keywords or {}).items()})


def widened(argument: Any) -> Any:
    """float64 for float32, anything else as it is."""
    return torch.float64 if argument is torch.float32 else argument


def reference_logits(
    model: PreTrainedModel, prompt: Tensor, following: Tensor, progress: Progress = quiet
) -> Tensor:
    """`logits_of` in float64 for the same weights; int8 weights are multiplied by their scales.

    Args:
        model: left as it is; a copy computes.
        prompt, following, progress: as in `generate.logits_of`.
    """
    double = copy.deepcopy(model).to(torch.float64)
    batch, length = prompt.shape
    with InDouble():
        cache = new_cache(double, batch, length + following.shape[1])
        return logits_of(double, double, cache, prompt, following, progress)
