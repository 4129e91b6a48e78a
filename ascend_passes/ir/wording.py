"""How reasons name nodes, operators and dtypes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx


def name(node: Any) -> str:
    """The operator of a node, or what else it is, in words for a reason."""
    if not isinstance(node, fx.Node):
        return repr(node)
    if node.target is operator.getitem:
        return f"result {node.args[1]} of {name(node.args[0])}"
    outside = {"placeholder": "an input of the graph", "output": "a result of the graph"}
    return outside.get(node.op) or operator_text(node.target)


def operator_text(target: Any) -> str:
    """An operator's name without its namespace clutter."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name.split("::")[1])
    return getattr(target, "__name__", str(target))


def short(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return str(error).partition("\n")[0]
