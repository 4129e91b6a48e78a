"""A spelling at one dtype and one set of sizes: as a small model, with inputs for it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.examples import has_any_rank, tried_scalars
from ascend_passes.engine.normalize import normalize
from ascend_passes.engine.rule import Rule, Spelling
from ascend_passes.ir import trace

LEADING = ((4,), (2, 3))
"""The sizes that `...` stands for, example by example."""
WRONG_SIZES = (1, 2, 3, 6, 63, 96, 1000, 8194)
"""Sizes that may falsify conditions."""
LARGEST_SIZE = 48
"""Random sizes are even and at most this; examples have the large ones."""
SCALES = (1 / 32, 32.0)
"""Magnitudes of scales, for operators that divide by them and for those that multiply."""


@dataclass(frozen=True)
class Trial:
    """What a rule is tried with."""

    rule: Rule
    spelling: Spelling
    dtype: torch.dtype
    """The dtype of inputs whose declaration has none."""
    sizes: Mapping[str, int]
    leading: tuple[int, ...]
    """The sizes that `...` stands for; empty where the spelling has none."""
    scalars: Mapping[str, Any]
    seed: int

    def __str__(self) -> str:
        rows = f", ... = {self.leading}" if self.leading else ""
        sizes = ", ".join(f"{name} = {size}" for name, size in self.sizes.items())
        return f"{str(self.dtype).removeprefix('torch.')}, {sizes}{rows}, seed {self.seed}"

    @property
    def given(self) -> dict[str, Any]:
        """What `where` and the replacement get beside inputs and sizes."""
        return {**self.spelling.constants, **self.scalars}

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each input."""
        return [
            (
                *(self.leading if item.any_rank else ()),
                *(size.factor * self.sizes.get(size.name, 1) for size in item.sizes),
            )
            for item in self.spelling.inputs
        ]

    @property
    def dtypes(self) -> list[torch.dtype]:
        """Dtype of each input."""
        return [item.dtype or self.dtype for item in self.spelling.inputs]

    @property
    def row_sizes(self) -> set[int]:
        """The numbers that count rows: in front of the first input's last dim, and no width."""
        widths = {shape[-1] for shape in self.shapes if shape}
        return set(self.shapes[0][:-1]) - widths - {1}

    def model(self, *tensors: Tensor) -> Any:
        """The pattern on negated inputs: a replacement may write what the graph itself computes."""
        return self.spelling.function(*(-tensor for tensor in tensors), **self.scalars)

    def fakes(self) -> dict[str, Tensor]:
        """Fake inputs by name."""
        tensors = trace.fake_inputs(self.shapes, self.dtypes, "cpu")
        return {item.name: fake for item, fake in zip(self.spelling.inputs, tensors, strict=True)}

    def graph(self, dynamic: Collection[int] = ()) -> fx.GraphModule:
        """The normal graph of the model; sizes in `dynamic` are symbolic."""
        fakes = trace.symbolic_inputs(self.shapes, self.dtypes, "cpu", dynamic)
        gm = trace.trace(self.model, fakes if dynamic else list(self.fakes().values()))
        normalize(gm.graph)
        gm.recompile()
        return gm

    def inputs(self, scale: float = SCALES[0]) -> list[Tensor]:
        """Random values: scales are positive and around `scale`, int8 takes its whole range,
        int32 is a zero point.

        An input whose name has `scale` in it is one; a complex input turns without stretching.
        Gains of 1 would hide a lost factor, so everything else is normal with a mean of a half.
        """
        source = torch.Generator().manual_seed(self.seed)
        tensors = []
        for item, shape, dtype in zip(self.spelling.inputs, self.shapes, self.dtypes, strict=True):
            if dtype == torch.int8:
                tensor = torch.randint(-127, 128, shape, generator=source)
            elif dtype == torch.int32:
                tensor = torch.randint(-20, 21, shape, generator=source)
            elif "scale" in item.name:
                tensor = scale * (0.5 + torch.rand(shape, generator=source))
            elif dtype.is_complex:
                angles = torch.randn(shape, generator=source)
                tensor = torch.polar(torch.ones(shape), angles)
            else:
                tensor = torch.randn(shape, generator=source) + 0.5
            tensors.append(-tensor.to(dtype))
        return tensors

    def with_more_rows(self) -> Trial:
        """The same with three more of each kind of row."""
        rows = self.row_sizes
        sizes = {name: size + 3 * (size in rows) for name, size in self.sizes.items()}
        leading = tuple(size + 3 * (size in rows) for size in self.leading)
        return replace(self, sizes=sizes, leading=leading)


def trials(rule: Rule, spelling: Spelling, dtype: torch.dtype, seed: int) -> Iterator[Trial]:
    """One for each example, and one at random sizes."""
    any_rank = has_any_rank(spelling)
    numbers = tried_scalars(rule, spelling)
    for index, sizes in enumerate(rule.examples):
        leading = LEADING[index % len(LEADING)] if any_rank else ()
        yield Trial(rule, spelling, dtype, {**rule.examples[0], **sizes}, leading, numbers, seed)
    source = random.Random(seed)
    first = rule.examples[0]
    drawn = {size: 2 * source.randint(1, LARGEST_SIZE // 2) for size in sorted(set(first.values()))}
    sizes = {name: 1 if size == 1 else drawn[size] for name, size in first.items()}
    rows = tuple(source.randint(2, 5) for _ in range(source.randint(1, 3)))
    yield Trial(rule, spelling, dtype, sizes, rows if any_rank else (), numbers, seed)


def wrong_trials(rule: Rule, spelling: Spelling, seed: int) -> Iterator[Trial]:
    """Every dtype, every value that the rule has of a scalar, and every named size in turn at sizes
    that no example has."""
    own = [(name, number) for name in spelling.scalars for number in rule.values.get(name, ())]
    for dtype in rule.dtypes if rule.where is not None else ():
        for trial in trials(rule, spelling, dtype, seed):
            yield trial
            for name, number in own:
                yield replace(trial, scalars={**trial.scalars, name: number})
            for name, size in itertools.product(trial.sizes, WRONG_SIZES):
                yield replace(trial, sizes={**trial.sizes, name: size})
