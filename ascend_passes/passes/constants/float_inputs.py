"""Float inputs of a dynamic compile become numbers again, so that operators can take them.

With `dynamic=True` Dynamo passes a module's floats, such as an epsilon, as float64 tensors of no
dims on the CPU, and the arithmetic around them as casts. A variant is compiled for their values,
which each call checks. A float that keeps changing, such as a temperature, stays an input.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import Context, is_call, value
from ascend_passes.report.value import Report

aten = torch.ops.aten
CASTS = (torch.ops.prims.convert_element_type.default, aten._to_copy.default)
TAKES_NUMBER = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
COMMUTES = (aten.add.Tensor, aten.mul.Tensor)

MOST_VALUES = 4
"""Combinations of values that variants are compiled for, before those that changed stay inputs."""
Key = tuple[tuple[int, bytes], ...]
"""Position and bits of each number that a variant is compiled for: NaN is itself, -0.0 is not
0.0."""


class Numbers:
    """Which float inputs variants are compiled for, by what calls have brought so far."""

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = tuple(positions)
        self.seen: set[Key] = set()

    def key(self, inputs: Sequence[Any]) -> Key:
        """What a call brings."""
        return tuple((index, struct.pack("d", float(inputs[index]))) for index in self.positions)

    def settle(self, key: Key) -> Key:
        """The key to compile for where a call brings something new: it may be shorter from now
        on."""
        if key in self.seen or len(self.seen) < MOST_VALUES:
            self.seen.add(key)
            return key
        first = dict(key)
        changed = {index for other in self.seen for index, bits in other if first[index] != bits}
        self.positions = tuple(index for index in self.positions if index not in changed)
        shorter = tuple(part for part in key if part[0] not in changed)
        self.seen = {shorter}
        return shorter

    def keep(self, key: Key) -> None:
        """Compile for all numbers of this key on."""
        if key not in self.seen:
            self.positions, self.seen = tuple(index for index, _ in key), {key}


def numbers_by_position(key: Key) -> dict[int, float]:
    """The numbers of a key by position."""
    return {index: struct.unpack("d", bits)[0] for index, bits in key}


def scalar_positions(graph: fx.Graph, static: Sequence[int]) -> tuple[int, ...]:
    """Positions of the inputs that stand for Python floats."""
    return tuple(
        index
        for index, node in enumerate(graph.find_nodes(op="placeholder"))
        if index not in static and is_float_scalar(value(node)) and node.users
    )


def is_float_scalar(fake: object) -> bool:
    """Whether a value is a float64 tensor of no dims on the CPU."""
    return (
        isinstance(fake, Tensor)
        and fake.dim() == 0
        and fake.dtype == torch.float64
        and fake.device.type == "cpu"
    )


def specialize_scalars(graph: fx.Graph, context: Context) -> Report:
    """Put the numbers in where arithmetic takes one; what remains still reads the input."""
    found = 0
    placeholders = graph.find_nodes(op="placeholder")
    for index, number in context.numbers.items():
        for node in cast_chain(placeholders[index]):
            for user in [one for one in node.users if len(one.args) == 2]:
                left, right = user.args
                if user.target in TAKES_NUMBER and right is node and decides(left, user):
                    user.update_arg(1, number)
                    found += 1
                elif user.target in COMMUTES and left is node and decides(right, user):
                    user.args = (right, number)
                    found += 1
    return Report(fired={"specialize_scalars": found})


def decides(operand: Any, user: fx.Node) -> bool:
    """Whether the other operand alone gives the result its dtype, as it does beside a number.

    A tensor of float64 without dims may be the user's own, and counts for more beside integers and
    beside another tensor without dims.
    """
    fake = value(operand) if isinstance(operand, fx.Node) else None
    return isinstance(fake, Tensor) and fake.is_floating_point() and fake.dtype == value(user).dtype


def cast_chain(node: fx.Node) -> list[fx.Node]:
    """A node and the casts behind it that keep a float's value as arithmetic on float32 rounds
    it."""
    chain = [node]
    for link in chain:
        chain += [user for user in link.users if is_call(user, *CASTS)]
    return chain
