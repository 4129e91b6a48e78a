"""Numbers that a graph reads from tensors, and that it then rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from ascend_passes.ir.content import comparable
from ascend_passes.ir.graph import Context, written
from ascend_passes.ir.trace import not_faking
from ascend_passes.meaning.cone import Cone
from ascend_passes.passes.constants.facts import Fact, record, untouched


@dataclass(frozen=True, eq=False)
class KnownNumbers:
    """The one-element tensors of a graph whose content is known."""

    made: Mapping[fx.Node, Tensor]
    """Tensors that the traced function made of numbers, which nobody writes."""
    read: Mapping[fx.Node, Tensor]
    """Parameters and buffers; who rests on one records the fact."""

    @classmethod
    def of(cls, graph: fx.Graph, context: Context) -> KnownNumbers:
        """Those of a graph."""
        module = graph.owning_module
        made: dict[fx.Node, Tensor] = {}
        for node in graph.find_nodes(op="get_attr"):
            tensor: Any = getattr(module, str(node.target), None)
            if is_number(tensor) and not any(node in written(user) for user in node.users):
                made[node] = tensor
        read = {node: held for node, held in untouched(graph, context).items() if is_number(held)}
        return cls(made, read)

    def of_leaves(self, cone: Cone, read: bool) -> dict[fx.Node, Tensor]:
        """The leaves of a piece whose content is known, in float64: those that the function made,
        and, where they are to be `read`, parameters and buffers."""
        every = {**self.made, **(self.read if read else {})}
        with not_faking():
            return {
                leaf: every[leaf].detach().to("cpu", torch.float64)
                for leaf in cone.leaves
                if leaf in every
            }


def is_number(tensor: object) -> bool:
    """Whether a tensor holds one real number that can be read."""
    return (
        isinstance(tensor, Tensor)
        and not isinstance(tensor, FakeTensor)
        and tensor.numel() == 1
        and not tensor.dtype.is_complex
        and comparable(tensor)
    )


def record_numbers(numbers: KnownNumbers, cone: Cone) -> None:
    """Note the facts that a piece's answer rests on."""
    for leaf in cone.leaves:
        if leaf in numbers.read:
            with not_faking():
                number = numbers.read[leaf].item()
            record(leaf, Fact(str(leaf.target), number=float(number)))
