"""What is done with a function of some inputs: called, written to, called again, differentiated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.soundness.case import Compile
from tests.soundness.copies import copied
from tests.soundness.observe import COPIES, MOST_WRITTEN, Record

SEED = 7


@dataclass(frozen=True)
class Call:
    """A function `f(x, *args, **kwargs)` and its inputs, which are copied for each call."""

    function: Callable[..., Any]
    inputs: tuple[Any, tuple[Any, ...], dict[str, Any]]
    gradients: bool = False
    other: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None
    """Inputs of the second call, where they are not those of the first."""

    def run(self, compile: Compile, record: Record) -> None:
        """Record all that can be seen of it."""
        step = compile(self.function)
        inputs = copied(self.inputs)
        results = called(step, inputs, record, "first call")
        if results is None:
            return
        state = torch.get_rng_state()
        record.see("first call", results=results, inputs=inputs, random_numbers=state)
        record.write_each("first call", results, inputs=inputs)
        again = copied(self.other or self.inputs)
        later = called(step, again, record, "second call")
        record.see("second call", results=later, inputs=again, earlier=results)
        if self.gradients:
            self.differentiate(step, record)

    def differentiate(self, step: Callable[..., Any], record: Record) -> None:
        """Gradients, and gradients after each result was written."""
        backward(step, copied(self.inputs), record, "gradients")
        for index in range(MOST_WRITTEN):
            inputs, stage = copied(self.inputs), f"gradients, result {index} written"
            if not backward(step, inputs, record, stage, index):
                return


def called(step: Callable[..., Any], inputs: Any, record: Record, stage: str) -> Any:
    """The results of one call with the same random numbers as any other."""
    x, args, kwargs = inputs
    torch.manual_seed(SEED)
    return record.attempt(stage, lambda: (step(x, *args, **kwargs),))


def backward(
    step: Callable[..., Any], inputs: Any, record: Record, stage: str, written: int | None = None
) -> bool:
    """Differentiate a call; False where there is no result number `written`."""
    unused = copied(inputs)
    results = called(step, inputs, record, stage)
    tensors = [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
    if written is not None and written >= len(tensors):
        return False
    if written is not None:
        record.attempt(f"{stage}, write", functools.partial(doubled, tensors[written]))
    record.attempt(stage, functools.partial(differentiated, tensors))
    record.see(stage, gradients=gradients(inputs), results=results, inputs=inputs)
    if written is not None and f"{stage} | raises" in record.facts:
        of_copies(step, unused, record, f"{stage}{COPIES}", written)
    return True


def of_copies(
    step: Callable[..., Any], inputs: Any, record: Record, stage: str, written: int
) -> None:
    """The gradients where a copy of the result is written, which nobody refuses."""
    results = called(step, inputs, record, stage)
    tensors = [leaf.clone() for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
    record.attempt(f"{stage}, write", functools.partial(doubled, tensors[written]))
    record.attempt(stage, functools.partial(differentiated, tensors))
    record.see_values(stage, gradients=gradients(inputs))


def differentiated(tensors: list[Tensor]) -> None:
    """Gradients of all that needs one."""
    roots = [tensor for tensor in tensors if tensor.requires_grad]
    torch.autograd.backward(roots, [seeded(root) for root in roots])


def doubled(tensor: Tensor) -> None:
    """Write a result as a user does, so that autograd knows of it."""
    tensor.mul_(2)


def seeded(tensor: Tensor) -> Tensor:
    """Random values for the gradient of a result."""
    numbers = torch.Generator(tensor.device).manual_seed(SEED)
    shape, dtype = tensor.shape, tensor.dtype
    return torch.randn(shape, generator=numbers, dtype=dtype, device=tensor.device)


def gradients(inputs: Any) -> list[Tensor | None]:
    """The gradients of all tensors of a tree."""
    return [leaf.grad for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
