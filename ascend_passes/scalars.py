"""Float inputs of a dynamic compile become numbers again, so that operators can take them.

With `dynamic=True` Dynamo passes a module's floats, such as an epsilon, as float64 tensors of no
dims on the CPU, and the arithmetic around them as casts. A variant is compiled for their values,
which each call checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from ascend_passes.graph import is_call, value

aten = torch.ops.aten
CASTS = (torch.ops.prims.convert_element_type.default, aten._to_copy.default)
TAKES_NUMBER = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
COMMUTES = (aten.add.Tensor, aten.mul.Tensor)


def scalar_positions(graph: fx.Graph, static: Sequence[int]) -> tuple[int, ...]:
    """Positions of the inputs that stand for Python floats."""
    return tuple(
        index
        for index, node in enumerate(graph.find_nodes(op="placeholder"))
        if index not in static and is_scalar(value(node)) and node.users
    )


def is_scalar(fake: object) -> bool:
    """Whether a value is a float64 tensor of no dims on the CPU."""
    return (
        isinstance(fake, Tensor)
        and fake.dim() == 0
        and fake.dtype == torch.float64
        and fake.device.type == "cpu"
    )


def specialize_scalars(graph: fx.Graph, numbers: Mapping[int, float]) -> None:
    """Put the numbers in where arithmetic takes one; what remains still reads the input."""
    placeholders = graph.find_nodes(op="placeholder")
    for index, number in numbers.items():
        for node in cast_chain(placeholders[index]):
            for user in list(node.users):
                if user.target in TAKES_NUMBER and len(user.args) == 2 and user.args[1] is node:
                    user.update_arg(1, number)
                elif user.target in COMMUTES and user.args[0] is node and user.args[1] is not node:
                    user.args = (user.args[1], number)


def cast_chain(node: fx.Node) -> list[fx.Node]:
    """A node and the casts behind it that keep a float's value as arithmetic on float32 rounds
    it."""
    chain = [node]
    for link in chain:
        chain += [user for user in link.users if is_call(user, *CASTS)]
    return chain
