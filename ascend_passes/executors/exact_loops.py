"""What Inductor may write loops for on a CPU, so that their results are eager's bit for bit.

IEEE 754 fixes the result of an addition, a product, a quotient, a comparison and a conversion, and
moving numbers changes none: there a loop of Inductor's gives what eager gives. Sums depend on their
order, exponentials and their like on who wrote them (eager's square root is a vendor's, whose last
bit may differ), and how a float beyond an integer type converts is nobody's promise: these stay
eager's own calls, as does what is not named.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.graph import is_view_target, value
from ascend_passes.ir.wording import operator_text
from ascend_passes.npu.operator import HALVES

ARITHMETIC = "add sub mul div neg abs rsqrt reciprocal square floor ceil trunc"
COMPARING = "eq ne lt le gt ge where logical_not logical_and logical_or"
WHOLE_NUMBERS = "bitwise_and bitwise_or bitwise_not bitwise_xor"
MOVING = (
    "alias arange as_strided cat clone constant_pad_nd convert_element_type copy copy_ detach "
    "embedding empty empty_like expand fill full full_like gather index index_copy index_copy_ "
    "index_put index_put_ index_select iota lift_fresh_copy masked_fill new_empty new_full "
    "new_ones new_zeros ones ones_like permute repeat reshape scalar_tensor select select_scatter "
    "slice slice_scatter split split_with_sizes squeeze stack t transpose unbind unsafe_split "
    "unsqueeze view zeros zeros_like _to_copy _unsafe_view"
)
PRODUCTS = "mm bmm"
LOOPS = frozenset(f"{ARITHMETIC} {COMPARING} {WHOLE_NUMBERS} {MOVING} {PRODUCTS}".split())
"""Names of the operators that may be loops, or be made of others that may."""
SQUARE = 2
OTHER_SUMS = ("alpha", "accumulate", "rounding_mode")
"""Arguments under which eager rounds in another place, or adds in an order of its own."""


def may_be_loop(node: fx.Node) -> bool:
    """Whether a loop of Inductor's gives eager's bits for a node, or a view needs none."""
    if is_view_target(node.target):
        return True
    name, given = operator_text(node.target), named_arguments(node)
    dtypes = {value_dtype(one) for one in (node, *node.all_input_nodes)}
    if any(dtype is not None and dtype.is_complex for dtype in dtypes):
        return False
    halves = not dtypes.isdisjoint(HALVES)
    if halves and (name == "rsqrt" or not all(map(is_half_number, given.values()))):
        return False
    if name == "pow":
        return bool(given["exponent"] == SQUARE)  # eager multiplies as well
    if name == "convert_element_type":
        return is_float(value_dtype(node)) or not is_float(value_dtype(node.args[0]))
    return name in LOOPS and not any(given.get(one) for one in OTHER_SUMS)


def value_dtype(node: Any) -> torch.dtype | None:
    """The dtype of a node's value, if that is a tensor."""
    found = value(node) if isinstance(node, fx.Node) else None
    return found.dtype if isinstance(found, Tensor) else None


def is_float(dtype: torch.dtype | None) -> bool:
    """Whether there is a dtype, and it is a floating one."""
    return dtype is not None and dtype.is_floating_point


def is_half_number(argument: Any) -> bool:
    """Whether a number is one in half precision: eager computes with float32's nearest, Inductor
    with half precision's."""
    return not isinstance(argument, float) or all(
        float(torch.tensor(argument, dtype=dtype)) == argument for dtype in HALVES
    )


def mean(
    x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """`aten.mean` as eager computes it on a CPU: a sum, in float32 for half precision, then a
    division."""
    result = dtype or x.dtype
    wide = torch.float32 if result in HALVES else result
    count = math.prod(x.shape[one] for one in (dim or range(x.dim())))
    total: Tensor = torch.ops.aten.sum.dim_IntList(x.to(wide), dim, keepdim, dtype=wide)
    return (total / count).to(result)


TAKEN_APART = {torch.ops.aten.mean.dim: mean}
DECOMPOSED = frozenset(MOVING.split())


def may_be_taken_apart(operator: torch._ops.OpOverload) -> bool:
    """Whether Inductor may compute an operator by others of its choice."""
    return operator_text(operator) in DECOMPOSED


def loops_identity() -> str:
    """Another one where what may be a loop is another."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(" ".join(sorted(LOOPS)).encode())
    return f"ascend_passes {digest.hexdigest()}"
