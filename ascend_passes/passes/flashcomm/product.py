"""Matmuls as the fused collectives need them: operands, scales, and the views around them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.graph import arguments_by_name, operator_name, value
from ascend_passes.ir.traits import traits_of
from ascend_passes.passes.flashcomm.build import Build
from ascend_passes.passes.flashcomm.sharded_rows import fake_empty

aten = torch.ops.aten
VIEWS = ("aten::view", "aten::_unsafe_view", "aten::reshape")
PADDED = (*VIEWS, "aten::constant_pad_nd")
"""What may stand between a matmul and its reduce_scatter."""
UNPADDED = (*VIEWS, "aten::slice", "_c10d_functional::wait_tensor")
"""What may stand between a gather and its matmul."""


@dataclass(frozen=True)
class Product:
    """A matmul's operands, plain or W8A8."""

    node: fx.Node
    left: fx.Node
    right: fx.Node
    scale: fx.Node | None = None
    """Dequantizing scale per column; None for a plain matmul."""
    per_token: fx.Node | None = None
    """Dequantizing scale per row of dynamic quantization."""
    bias: fx.Node | None = None


def read_product(node: Any) -> Product | None:
    """The operands of a matmul that is nothing else beside; None for others.

    Every argument that is no operand has its default, but for those that the result's dtype shows.
    """
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    traits = traits_of(node.target)
    matmul = traits.matmul
    if matmul is None or matmul.transposed or traits.collective:
        return None
    given = named_arguments(node)
    names = (matmul.left, matmul.right, matmul.scale, matmul.row_scale, matmul.bias)
    for name, argument, entry in arguments_by_name(node):
        plain = entry.has_default_value() and argument == entry.default_value
        if name not in (*names, *matmul.shows) and not plain:
            return None
    left, right, scale, row_scale, bias = (given.get(name) for name in names)
    return Product(node, left, right, scale, row_scale, bias)  # type: ignore[arg-type]


def upwards(node: Any, through: tuple[str, ...]) -> Iterator[fx.Node]:
    """A node and what it leads back to through the named operators."""
    while isinstance(node, fx.Node):
        yield node
        if operator_name(node) not in through:
            return
        node = node.args[0]


def row(build: Build, scale: fx.Node) -> fx.Node:
    """A scale per column as the fused operators take it: `[1, N]`, float32 or int64 words."""
    if value(scale).dtype == torch.bfloat16:
        wide = fake_empty(value(scale), value(scale).shape).float()
        scale = build.known(wide, aten._to_copy.default, scale, dtype=torch.float32)
    shape = (1, value(scale).numel())
    return build.known(fake_empty(value(scale), shape), aten.reshape.default, scale, [1, -1])


def column(build: Build, scale: fx.Node) -> fx.Node:
    """A scale per row as the fused operators take it: `[M, 1]`."""
    shape = (value(scale).shape[0], 1)
    return build.known(fake_empty(value(scale), shape), aten.reshape.default, scale, [-1, 1])


def matrix(build: Build, node: fx.Node) -> fx.Node:
    """`[..., K] -> [M, K]`."""
    shape = value(node).shape
    if len(shape) == 2:
        return node
    flat = fake_empty(value(node), (math.prod(shape[:-1]), shape[-1]))
    return build.known(flat, aten.reshape.default, node, [-1, shape[-1]])


def vector(build: Build, node: fx.Node) -> fx.Node:
    """A scale per row as `[M]`."""
    if value(node).dim() == 1:
        return node
    flat = fake_empty(value(node), (value(node).numel(),))
    return build.known(flat, aten.reshape.default, node, [-1])
