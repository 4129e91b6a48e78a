"""Integer matmuls with scales by meaning: `r_i * c_j * sum_k q_ik w_kj + b_j`.

A piece of int8 rows q and an int8 weight w, in float64, where sums of integers are exact:

* what is left of F(q, w) without F(0, w), divided by the product q w, must be one factor for each
  row times one for each column; which powers of which tensors these are is found by doubling them;
* F(0, w) without F(0, 0) is the zero point of the rows times the sums of w, times that factor;
* F(0, 0) is a bias: an integer one if it is scaled like the product, else a float one.

The operator sums in integers, exactly, so it rounds less than any spelling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, fx

from ascend_passes.ir.graph import plain_size, same_size, value
from ascend_passes.meaning.answer import Answer, NotThat, Slot
from ascend_passes.meaning.cone import (
    Cone,
    ancestors,
    cone_of,
    descendants,
    fake_tensor,
    is_widening,
)
from ascend_passes.meaning.family import (
    Place,
    Recognition,
    Recognizer,
    agrees,
    made_of,
    random_int8,
    random_scales,
)
from ascend_passes.meaning.lift import WidePiece
from ascend_passes.meaning.looks import is_int8_value, looks_like_product
from ascend_passes.meaning.powers import powers_of
from ascend_passes.meaning.product_bias import Bias, bias_of, zero_of
from ascend_passes.meaning.product_build import built_matmul
from ascend_passes.meaning.summed import Summed
from ascend_passes.meaning.vocabulary import CASTS, LAYOUT, MAKES

aten = torch.ops.aten
ANCHORS = frozenset(
    {
        *(aten.mm.default, aten._int_mm.default, aten.addmm.default, aten.bmm.default),
        *(aten.baddbmm.default, aten.linear.default, aten.matmul.default),
    }
)
ARITHMETIC = frozenset(
    {
        *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default),
        *(aten.reciprocal.default, aten.rsub.Scalar, aten.add.Scalar, aten.mul.Scalar),
        *(aten.div.Scalar, aten.sub.Scalar, aten.addcmul.default, aten.sum.dim_IntList),
    }
)
FACTORS = frozenset({aten.mul.Tensor, aten.div.Tensor, aten.reciprocal.default})
ALLOWED_HERE = ANCHORS | ARITHMETIC | CASTS | LAYOUT | MAKES
REACH = BEFORE, BEHIND = 10, 8


def product_places(anchor: fx.Node) -> Iterator[Place]:
    """Floating values behind a product, with its int8 rows and its int8 weight."""
    fake = fake_tensor(anchor)
    if fake is None:
        return
    integers = [node for node in ancestors(anchor, BEFORE, ALLOWED_HERE) if is_int8_matrix(node)]
    weights = [node for node in integers if value(node).dim() == 2]
    outs = [
        out
        for out in (*descendants(anchor, BEHIND, ALLOWED_HERE), anchor)
        if out.target not in LAYOUT and is_result(out, fake) and not is_widening(out)
    ]
    pairs = [(q, w) for w in weights for q in integers if q is not w]
    for out in outs:
        fitting = [pair for pair in pairs if has_columns(out, *pair)]
        yield from ((out, pair) for pair in fitting)
        yield from ((out, pair) for pair in pairs if pair not in fitting)


def has_columns(out: fx.Node, q: fx.Node, w: fx.Node) -> bool:
    """Whether a result is as wide as rows times a weight: of a single row either operand could be
    the weight."""
    one, other = value(w).shape
    depth, columns = value(q).shape[-1], value(out).shape[-1]
    return any(
        same_size(depth, k) and same_size(columns, n) for k, n in ((one, other), (other, one))
    )


def is_int8_matrix(node: fx.Node) -> bool:
    """Whether a node holds int8 numbers in two dims or more."""
    return is_int8_value(node) and value(node).dim() >= 2


def is_result(node: fx.Node, product_fake: Tensor) -> bool:
    """Whether a node holds as many floating elements as a product."""
    fake = fake_tensor(node)
    if fake is None or not fake.dtype.is_floating_point:
        return False
    return same_size(fake.numel(), product_fake.numel())


def product_piece(place: Place) -> Cone | None:
    """The piece at a place, if the depth of its operands can be alike and all else that it reads is
    one number, or one for each row or column."""
    out, (q, w) = place
    depth = plain_size(value(q).shape[-1])
    if depth is None or depth not in [plain_size(size) for size in value(w).shape]:
        return None
    cone = cone_of(out, (q, w), ALLOWED_HERE)
    if cone is None or not {q, w} <= {given for node in cone.own for given in node.all_input_nodes}:
        return None
    large = value(out).numel()
    small = all(is_scale(leaf, value(out), large) for leaf in cone.leaves)
    return cone if small else None


def is_scale(leaf: fx.Node, out: Tensor, count: object) -> bool:
    """Whether a leaf holds real numbers, and not as many as the result has, as a residual does.

    A single row has as many columns as the weight has scales, which are a column, or multiply.
    """
    fake = fake_tensor(leaf)
    if fake is None or fake.dtype.is_complex:
        return False
    if fake.dim() < 2 or not same_size(fake.numel(), count):
        return True
    return same_size(fake.shape[-1], 1) or multiplies(leaf)


def multiplies(node: fx.Node) -> bool:
    """Whether all that is made of a node, beside casts, are products and quotients."""
    return all(
        user.target in FACTORS or (user.target in CASTS and multiplies(user)) for user in node.users
    )


def solve_product(lifted: WidePiece) -> Answer | NotThat:
    """The quantized matmul that a piece is."""
    return product_of(Summed.of(lifted))


def product_of(summed: Summed) -> Answer | NotThat:
    """The matmul, from what its operands become; errors as in `WidePiece.at`."""
    factor, plain = summed.factor(), summed.plain
    if summed.at(1, 1).shape != plain.shape or not factor.isfinite().all() or not factor.all():
        return NotThat("it is no product of rows and weight")
    ranks = factor[:, :1] * factor[:1] / factor[:1, :1]
    if not agrees(factor, ranks):
        return NotThat("its scales are no factors of rows and columns", near=True)
    other = replace(summed, rows=summed.rows.flip(0) + 1)
    if not agrees(other.at(1, 1) - other.at(0, 1), other.plain * factor):
        return NotThat("it is not linear in its rows")
    if not agrees(summed.at(1, 0), summed.bias()):
        return NotThat("its weight is asymmetric, which npu_quant_matmul does not take", near=True)
    return with_scales(summed, factor)


def with_scales(summed: Summed, factor: Tensor) -> Answer | NotThat:
    """The operator with the scales, zero point and bias that a piece reads."""
    leaves = list(summed.given)
    powers = powers_of(summed.factor, summed.given, leaves)
    if powers is None:
        return NotThat("its scale is no product of what it reads", near=True)
    of_rows = not agrees(factor, factor[:1].expand_as(factor))
    per_row = [leaf for leaf in powers if of_rows and follows_rows(summed, leaf)]
    if len(per_row) != int(of_rows):
        return NotThat("its rows have no scale, or several", near=True)
    if len(summed.plain) == 1:  # a number that the graph computes is the scale of its only row
        computed = (leaf for leaf in powers if leaf.op == "call_function")
        per_row = [leaf for leaf in computed if summed.given[leaf].numel() == 1][:1]
    number = factor.clone()
    for leaf, power in powers.items():
        held = summed.given[leaf].reshape(-1)
        number = number / (held[:, None] if leaf in per_row else held[None]) ** power
    if not agrees(number, number[:1, :1].expand_as(number)):
        return NotThat("its scale is no product of what it reads", near=True)
    rest = [leaf for leaf in leaves if leaf not in powers]
    point = zero_of(summed, rest)
    if isinstance(point, NotThat):
        return point
    bias = bias_of(summed, [leaf for leaf in rest if leaf is not point])
    if isinstance(bias, NotThat):
        return bias
    columns = [leaf for leaf in powers if leaf not in per_row]
    return product_answer(summed, columns, per_row, powers, float(number[0, 0]), point, bias)


def follows_rows(summed: Summed, leaf: fx.Node) -> bool:
    """Whether a leaf has a number for each row: doubling the first changes the first row alone."""
    held = summed.given[leaf]
    if held.numel() != summed.plain.shape[0]:
        return False
    raised = held.clone()
    raised.view(-1)[0] *= 2
    ratio = summed.factor({**summed.given, leaf: raised}) / summed.factor()
    return bool((ratio[1:] - 1).abs().max() < 1e-9) and bool((ratio[0] - 1).abs().min() > 0.1)


def product_answer(
    summed: Summed,
    columns: Sequence[fx.Node],
    per_row: Sequence[fx.Node],
    powers: Mapping[fx.Node, int],
    number: float,
    point: fx.Node | float,
    bias: Bias,
) -> Answer | NotThat:
    """The operator with what was found."""
    cone = summed.lifted.cone

    integer = bias.leaf is not None and not value(bias.leaf).dtype.is_floating_point
    if bias.scaled and not integer:
        return NotThat("its bias is scaled like the product, but no integer", near=True)
    if per_row and point != 0.0 and bias.leaf is not None and not bias.scaled:
        reason = "it has a scale of each row, a zero point and a float bias; the operator takes two"
        return NotThat(reason, near=True)
    inputs = {"x": Slot(0), "weight": Slot(1)}
    inputs |= {f"scale{i}": Slot.of_leaf(cone, leaf) for i, leaf in enumerate(columns)}
    if per_row:
        inputs["row_scale"] = Slot.of_leaf(cone, per_row[0])
    if bias.leaf is not None:
        inputs["bias"] = Slot.of_leaf(cone, bias.leaf)
    if isinstance(point, fx.Node):
        inputs["zero"] = Slot.of_leaf(cone, point)
    close = math.isclose(number, 1.0, rel_tol=1e-9)
    numbers = {
        "powers": tuple(powers[leaf] for leaf in columns),
        "row_power": powers[per_row[0]] if per_row else 1,
        "number": 1.0 if close else number,
        "transposed": summed.transposed,
        "point": 0.0 if isinstance(point, fx.Node) else point,
        "scaled": bias.scaled,
        "kind": value(cone.out).dtype,
    }
    return Answer(
        f"quant_matmul_{'dynamic' if per_row else 'static'}", built_matmul, inputs, numbers
    )


def spelled_product(
    x: Tensor, weight: Tensor, scale: Tensor, row_scale: Tensor | None = None
) -> Tensor:
    """An integer matmul, scaled by column, and by row where rows have scales."""
    total = torch.mm(x.to(torch.int32), weight.to(torch.int32).t()).float() * scale
    return (total if row_scale is None else total * row_scale[:, None]).to(torch.bfloat16)


OPERANDS = (random_int8(6, 64), random_int8(96, 64), random_scales(96, dtype=torch.float32))
RULES: Mapping[str, Recognition] = MappingProxyType(
    {
        "quant_matmul_static": Recognition(
            "A matmul of int8 rows and an int8 weight, scaled by column, becomes "
            "`npu_quant_matmul`.",
            spelled_product,
            made_of(*OPERANDS),
        ),
        "quant_matmul_dynamic": Recognition(
            "A matmul of int8 rows with a scale each and an int8 weight becomes "
            "`npu_quant_matmul`.",
            spelled_product,
            made_of(*OPERANDS, random_scales(6, dtype=torch.float32)),
        ),
    }
)
PRODUCTS = Recognizer(
    "quant_matmul",
    RULES,
    ANCHORS,
    product_places,
    product_piece,
    solve_product,
    ALLOWED_HERE,
    REACH,
    looks_like_product,
    shares=True,
)
