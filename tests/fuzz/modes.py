"""Dispatch modes: everything in float64, and float64 with the noise of a dtype's rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from tests.fuzz.formulas import FORMULAS

WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
NEAR_TIE = 0.05
"""Noise in front of a rounding to integers, in integers: some values fall on the other side."""
FLIPPED = 0.05
"""Share of an operator's int8 values that noise moves by one."""


def by_name(function: Any, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of an operator by its name, defaults filled in."""
    given = dict(kwargs)
    for index, argument in enumerate(function._schema.arguments):
        if index < len(args):
            given[argument.name] = args[index]
        elif argument.name not in given:
            given[argument.name] = argument.default_value
    return given


def widened(argument: Any) -> Any:
    """float64 for every floating dtype."""
    return WIDE.get(argument, argument) if isinstance(argument, torch.dtype) else argument


def dense(result: Any) -> Any:
    """A result in rows of its own."""
    return result.contiguous() if isinstance(result, Tensor) else result


class Exact(TorchDispatchMode):
    """Floating dtypes that a graph names become float64; the NPU's operators become formulas.

    Memory that nobody has written holds NaN.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = self.computed(func, args, kwargs or {})
        if "empty" in func._schema.name and isinstance(result, Tensor):
            result.fill_(torch.nan if result.is_floating_point() else 77)
        return result

    def computed(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """The operator, or its formula."""
        formula = FORMULAS.get(func._schema.name)
        if formula is not None:
            # The operators give dense results, whatever their inputs' layout is.
            return tree_map(dense, formula(by_name(func, args, kwargs)))
        if func.namespace in ("npu", "ascend_passes", "quantized_decomposed"):
            raise NotImplementedError(f"no formula for {func}")
        return func(*tree_map(widened, args), **tree_map(widened, dict(kwargs)))


class Noise(Exact):
    """As `Exact`, and every new value is off by as much as a rounding moves it."""

    def __init__(self, seed: int, unit: float) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.unit = unit

    def even(self, like: Tensor) -> Tensor:
        """Numbers between -1 and 1."""
        return 2 * torch.rand(like.shape, generator=self.generator, dtype=torch.float64) - 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func._schema.name == "aten::round" and args[0].is_floating_point():
            args = (args[0] + NEAR_TIE * self.even(args[0]), *args[1:])
            return func(*args, **(kwargs or {}))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if any(returned.alias_info is not None for returned in func._schema.returns):
            return result
        quantizes = func._schema.name in FORMULAS
        return tree_map(lambda value: self.moved(value, quantizes), result)

    def moved(self, value: Any, quantizes: bool) -> Any:
        """A value with noise."""
        if not isinstance(value, Tensor):
            return value
        if value.dtype == torch.float64:
            return value * (1 + self.unit * self.even(value))
        if quantizes and value.dtype == torch.int8:
            step = torch.where(self.even(value).abs() < FLIPPED, self.even(value).sign(), 0.0)
            return (value + step).clamp(-128, 127).to(torch.int8)
        return value
