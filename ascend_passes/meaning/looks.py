"""What looks like an operator of a family though it is not known to be one, so that it is told.

Signs alone, such as a root behind a reduction of rows; nothing rests on them but the report.
"""

from __future__ import annotations

import torch
from torch import fx

from ascend_passes.ir.graph import same_size
from ascend_passes.meaning.cone import ancestors, descendants, fake_tensor
from ascend_passes.meaning.vocabulary import ALLOWED, CHOICES, MOVES, ROUNDINGS

aten = torch.ops.aten
ROOTS = frozenset({aten.rsqrt.default, aten.sqrt.default})
NORMS = frozenset({aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim})
ACTIVATIONS = frozenset({aten.silu.default, aten.gelu.default})
HALF_POWERS = (0.5, -0.5)
PRODUCTS = frozenset({aten.mul.Tensor, aten.div.Tensor, aten.addcmul.default})
NEAR, NEARER = 6, 3
"""Operators between two signs of one operator."""


def is_root(node: fx.Node) -> bool:
    """Whether a node takes a root."""
    power = node.target is aten.pow.Tensor_Scalar and node.args[1] in HALF_POWERS
    return node.target in ROOTS | NORMS or power


def looks_like_norm(anchor: fx.Node) -> bool:
    """A reduction of rows with a root behind it, by which rows are multiplied or divided."""
    made = fake_tensor(anchor)
    rows = [fake_tensor(node) for node in anchor.all_input_nodes]
    if made is None or not made.dtype.is_floating_point or not rows or rows[0] is None:
        return False
    if not rows[0].dim() or not same_size(made.numel() * rows[0].shape[-1], rows[0].numel()):
        return False
    behind = descendants(anchor, NEAR)
    rooted = any(map(is_root, (anchor, *behind)))
    return rooted and any(
        node.target in PRODUCTS and same_size(count_of(node), rows[0].numel()) for node in behind
    )


def looks_like_gate(anchor: fx.Node) -> bool:
    """A SiLU or GELU, by name or as a product with its own input, that is multiplied by a tensor of
    its size which it is not computed from."""
    own = fake_tensor(anchor)
    if own is None or not own.dim():
        return False
    before = set(ancestors(anchor, NEAR))
    behind = {anchor, *descendants(anchor, NEARER)}
    activated = anchor.target in ACTIVATIONS
    for node in sorted(behind - {anchor}):
        if node.target not in PRODUCTS or not same_size(count_of(node), own.numel()):
            continue
        others = [one for one in node.all_input_nodes if same_size(count_of(one), own.numel())]
        activated = activated or any(one in before for one in others)
        if activated and any(one not in before and one not in behind for one in others):
            return True
    return False


def looks_like_rotation(anchor: fx.Node) -> bool:
    """Columns that change places, one of them negated or subtracted, beside products."""
    if anchor.target not in MOVES | {aten.view_as_real.default}:
        return False
    before = ancestors(anchor, NEARER)
    signs = {node.target for node in before}
    turned = signs & {aten.neg.default, aten.sub.Tensor, aten.view_as_complex.default}
    behind = {node.target for node in descendants(anchor, NEARER)}
    return bool(turned) and bool((signs | behind) & PRODUCTS)


def looks_like_quantize(anchor: fx.Node) -> bool:
    """A rounding of rows whose result becomes int8, or is clamped to its range."""
    if anchor.target not in ROUNDINGS:
        return False
    near = [anchor, *descendants(anchor, NEARER, ALLOWED | ROUNDINGS | CHOICES)]
    return any(
        is_int8_value(node) or clamps_to_int8(node) for node in (*near, *ancestors(anchor, 2))
    )


def is_int8_value(node: fx.Node) -> bool:
    """Whether a node holds int8 numbers."""
    fake = fake_tensor(node)
    return fake is not None and fake.dtype == torch.int8


def clamps_to_int8(node: fx.Node) -> bool:
    """Whether a node clamps to what int8 holds."""
    return node.target is aten.clamp.default and tuple(node.args[1:3]) in ((-128, 127), (-127, 127))


def looks_like_product(anchor: fx.Node) -> bool:
    """A matmul with an int8 operand, as it is or read back."""
    near = ancestors(anchor, NEAR, ALLOWED)
    return any(map(is_int8_value, near))


def count_of(node: fx.Node) -> object:
    """The number of elements of a node's tensor; -1 where it has none."""
    fake = fake_tensor(node)
    return -1 if fake is None else fake.numel()
