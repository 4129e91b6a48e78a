"""The number in a scalar tensor that a traced function made."""

from __future__ import annotations

from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from ascend_passes.ir.graph import written
from ascend_passes.ir.trace import not_faking


def constant_number(node: fx.Node) -> float | int | None:
    """The number in a scalar that the traced function made, None for anything else."""
    if node.op != "get_attr" or any(node in written(user) for user in node.users):
        return None
    tensor = getattr(node.graph.owning_module, str(node.target), None)
    if not isinstance(tensor, Tensor) or tensor.dim() or isinstance(tensor, FakeTensor):
        return None
    with not_faking():
        number: float | int = tensor.item()
    return number
