"""Compares what two functions say about shapes, dtypes and strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
    statically_known_true,
)
from torch.utils import _pytree as pytree

from tests.conformance.inside.inputs import Call

Description = tuple[str, tuple[Any, ...], tuple[Any, ...]]


def describe(result: Any) -> list[Description]:
    """dtype, sizes and strides of every tensor in a result."""
    leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    return [(str(t.dtype), tuple(t.shape), tuple(t.stride())) for t in leaves]


def equal(left: list[Description], right: list[Description]) -> bool:
    """Whether two descriptions agree; symbolic sizes must be provably equal."""
    if len(left) != len(right):
        return False
    return all(
        mine[0] == theirs[0] and all(map(same_sizes, mine[1:], theirs[1:]))
        for mine, theirs in zip(left, right, strict=True)
    )


def same_sizes(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    """Whether sizes are equal, one by one."""
    return len(left) == len(right) and all(
        statically_known_true(a == b) for a, b in zip(left, right, strict=True)
    )


def difference(ours: Callable[..., Any], theirs: Callable[..., Any], call: Call) -> str:
    """How two fakes differ on a call; "" where they agree."""
    mine = describe(ours(*call.args, **call.kwargs))
    wheel = describe(theirs(*call.args, **call.kwargs))
    return "" if equal(mine, wheel) else f"ours {mine}, wheel {wheel}"


def symbolic_difference(ours: Callable[..., Any], theirs: Callable[..., Any], call: Call) -> str:
    """`difference` with every size above 1 a symbol; equal sizes share one."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    arguments = (call.args, call.kwargs)
    fake = Call(*pytree.tree_map_only(Tensor, lambda t: symbolic(mode, t), arguments))
    with mode:
        return difference(ours, theirs, fake)


def hinted_difference(ours: Callable[..., Any], theirs: Callable[..., Any], call: Call) -> str:
    """How our fake with symbolic sizes, each symbol at its value, differs from theirs without.

    For operators whose Meta function of the wheel is wrong on symbols, and right on numbers.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv())
    arguments = (call.args, call.kwargs)
    fake = Call(*pytree.tree_map_only(Tensor, lambda t: symbolic(mode, t), arguments))
    with mode:
        found = describe(ours(*fake.args, **fake.kwargs))
    mine = [(dtype, numbers(sizes), numbers(strides)) for dtype, sizes, strides in found]
    wheel = describe(theirs(*call.args, **call.kwargs))
    return "" if mine == wheel else f"ours {mine}, wheel {wheel}"


def numbers(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes at the values that their symbols had when they were made."""
    return tuple(s.node.hint if isinstance(s, torch.SymInt) else s for s in sizes)


def symbolic(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """The tensor with symbols for its sizes."""
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DUCK] * tensor.dim())
    real = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    source = ConstantSource(f"input_{id(real)}")
    return mode.from_tensor(real, symbolic_context=context, source=source)
