"""Dynamo's inputs as AOTAutograd passes them on: the tensors inside a wrapper subclass, such as a
DTensor or a quantized weight of torchao, stand in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ascend_passes.ir import trace


@dataclass(frozen=True)
class FlatInputs:
    """The inputs of an inference graph, each with the input of Dynamo's graph that it is part of.

    Without `owners` nobody knows which that is.
    """

    values: tuple[Any, ...]
    owners: tuple[int, ...] = ()
    """Position among Dynamo's inputs, for each value."""

    @classmethod
    def of(cls, given: Sequence[Any], inputs: Sequence[Any]) -> FlatInputs:
        """Dynamo's inputs, whose parameters are real, where their parts are as many as the graph's
        own inputs; else these."""
        parts = [(part, owner) for owner, one in enumerate(given) for part in plain_parts(one)]
        if len(parts) != len(inputs):
            return cls(tuple(inputs))
        return cls(tuple(part for part, _ in parts), tuple(owner for _, owner in parts))

    def state(
        self, gm: fx.GraphModule, given: Sequence[Any], static: Sequence[int]
    ) -> tuple[int, ...]:
        """Those of the positions `static` that hold a parameter or buffer of a module, or a part of
        one."""
        if not self.owners:
            return ()
        owning = set(trace.module_state(gm, given, range(len(given))))
        return tuple(index for index in static if self.owners[index] in owning)


def plain_parts(value: Any) -> Iterator[Any]:
    """The tensors inside a wrapper subclass, in AOTAutograd's order; anything else as it is."""
    if not is_traceable_wrapper_subclass(value):
        yield value
        return
    for name in value.__tensor_flatten__()[0]:
        yield from plain_parts(getattr(value, name))
