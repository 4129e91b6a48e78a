"""The fused operators that stand for a matmul and its collective, and the nodes around them.

Each function answers for one collective: with the values that the added nodes replace, None where
no matmul stands beside it, or a `Refused`. Nothing is replaced here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.distributed.groups import VLLM, Group, communicator, family_of
from ascend_passes.engine.site import legal_call, refuse_unless
from ascend_passes.ir.graph import Context, is_call, operator_name, same_size, value
from ascend_passes.passes.flashcomm.build import Build
from ascend_passes.passes.flashcomm.product import (
    PADDED,
    UNPADDED,
    VIEWS,
    Product,
    column,
    matrix,
    read_product,
    row,
    upwards,
    vector,
)
from ascend_passes.passes.flashcomm.sharded_rows import fake_empty
from ascend_passes.passes.matmul_collective.views import (
    awaited,
    gathered_from,
    products_of,
    readers_of,
    repeated_views,
)

VECTOR_CORES = "aiv"
"""The communication mode that takes int8 and NZ weights; the default is documented for training."""
CODES: Mapping[torch.dtype, int] = MappingProxyType({torch.float16: 5, torch.bfloat16: 15})
"""torch's ScalarType codes, for `y_dtype`."""
aten = torch.ops.aten
Replaced = Mapping[fx.Node, fx.Node]
"""Value of the graph -> the added node that has the same value."""


def fuse_reduce_scatter(
    build: Build, node: fx.Node, group: Group, context: Context
) -> Replaced | None:
    """matmul, [view], [pad], reduce_scatter: the padding moves in front of the matmul."""
    chain = list(upwards(node.args[0], PADDED))
    product = read_product(chain[-1])
    if product is None or node.args[1] not in ("sum", 0):
        return None
    refuse_unless(all(len(link.users) <= 1 for link in chain), "the product is also read whole")
    refuse_unless(columns_stay(chain), "the product is viewed with other columns in between")
    pads = [link for link in chain if is_call(link, aten.constant_pad_nd.default)]
    refuse_unless(all(map(pads_rows, pads)) and len(pads) <= 1, "more than rows are padded")
    pad = pads[0].args[1] if pads else None
    rows = value(node.args[0]).shape[0]  # type: ignore[arg-type]
    with build.behind(node):
        left = padded_like(build, matrix(build, product.left), pad, rows)
        common = operands(product, left, group, context) | {"bias": product.bias}
        if product.per_token is None:
            name = "npu_mm_reduce_scatter_base"
            common |= whole_scales(build, product)
        else:
            name = "npu_quant_mm_reduce_scatter"
            per_token = padded_like(build, vector(build, product.per_token), pad, rows)
            common |= token_scales(build, product, per_token)
        outputs = legal_results(build, name, common, context)
    return {awaited(node): outputs[0]}


def fuse_all_gather(build: Build, node: fx.Node, group: Group, context: Context) -> Replaced | None:
    """all_gather, [unpad], matmul: the product is unpadded; others read the gathered rows."""
    if family_of(node) == VLLM and node.args[1] != 0:
        return None
    gathered = awaited(node)
    first = min(products_of(gathered), default=None)
    if first is None:
        return None
    product = read_product(first)
    assert product is not None
    readers = [one for one in readers_of(gathered, build.author) if one is not first]
    early = any(reader < first for reader in readers)
    refuse_unless(not early, "the gathered rows are read before the matmul")
    local = node.args[0]
    assert isinstance(local, fx.Node)
    refuse_unless(
        value(local).dim() == 2 and value(first).dim() == 2, "the rows are not a matrix [M, K]"
    )
    with build.at(first):
        common = operands(product, local, group, context)
        common |= {"bias": product.bias, "gather_output": bool(readers)}
        if product.per_token is None:
            name = "npu_all_gather_base_mm"
            common |= whole_scales(build, product)
        else:
            name = "npu_all_gather_quant_mm"
            scales = gathered_from(product.per_token, group)
            refuse_unless(
                scales is not None, "the scales of the rows do not come from a gather as well"
            )
            assert scales is not None
            common |= token_scales(build, product, scales)
        outputs = legal_results(build, name, common, context)
        result = unpadded_product(build, product, outputs[0])
        copies = repeated_views(build, gathered, outputs[1]) if readers else {}
    return {first: result} | copies


def fuse_all_reduce(build: Build, node: fx.Node, group: Group, context: Context) -> Replaced | None:
    """matmul, [view], all_reduce."""
    if node.args[1] != "sum" and family_of(node) != VLLM:
        return None
    chain = list(upwards(node.args[0], VIEWS))
    product = read_product(chain[-1])
    if product is None:
        return None
    refuse_unless(
        all(len(link.users) <= 1 for link in chain), "the product is also read before the sum"
    )
    common: dict[str, Any] = {
        "x1": product.left,
        "x2": product.right,
        "hcom": communicator(group, context.device),
        "bias": product.bias,
    }
    if product.scale is not None:
        common |= {"dequant_scale": product.scale, "pertoken_scale": product.per_token}
        common |= {"y_dtype": CODES.get(value(product.node).dtype)}
    result = awaited(node)
    with build.behind(node):
        reduced = legal_results(build, "npu_mm_all_reduce_base", common, context)[0]
        if value(reduced).dim() != value(result).dim():
            views = [link for link in chain if operator_name(link) in VIEWS]
            refuse_unless(len(views) == 1, "the product is viewed more than once before the sum")
            reduced = build.known(value(result), aten.reshape.default, reduced, views[0].args[1])
    return {result: reduced}


def operands(product: Product, left: fx.Node, group: Group, context: Context) -> dict[str, Any]:
    """The arguments that reduce_scatter and all_gather operators share."""
    return {
        "input": left,
        "x2": product.right,
        "hcom": communicator(group, context.device),
        "world_size": group.size,
        "comm_mode": VECTOR_CORES,
    }


def whole_scales(build: Build, product: Product) -> dict[str, Any]:
    """Scales of a static W8A8 product for the `_base` operators; nothing for a plain product."""
    if product.scale is None:
        return {}
    return {"x2_scale": row(build, product.scale), "output_dtype": value(product.node).dtype}


def token_scales(build: Build, product: Product, per_token: fx.Node) -> dict[str, Any]:
    """Scales of a dynamic W8A8 product for the `quant` operators."""
    assert product.scale is not None
    return {
        "x2_scale": row(build, product.scale),
        "x1_scale": column(build, per_token),
        "y_dtype": CODES.get(value(product.node).dtype),
    }


def legal_results(
    build: Build, name: str, arguments: dict[str, Any], context: Context
) -> tuple[fx.Node, ...]:
    """Enter a legal call and give the nodes of its results.

    Raises:
        Refused: a documented limit of the operator does not hold.
    """
    given = {key: argument for key, argument in arguments.items() if argument is not None}
    node = legal_call(build, name, context.options.soc, given)
    if isinstance(value(node), Tensor):
        return (node,)
    return tuple(build.item(node, index) for index in range(len(value(node))))


def pads_rows(node: fx.Node) -> bool:
    """Whether a padding appends zero rows to a matrix and nothing else."""
    amounts, filler = node.args[1], node.args[2] if len(node.args) > 2 else 0
    assert isinstance(amounts, (list, tuple))
    rows_only = len(amounts) == 4 and list(amounts[:3]) == [0, 0, 0]
    return rows_only and isinstance(filler, (int, float)) and filler == 0


def columns_stay(chain: list[fx.Node]) -> bool:
    """Whether the links of a chain have the same last dimension."""
    last = [value(link).shape[-1] for link in chain]
    return all(same_size(size, last[0]) for size in last)


def padded_like(build: Build, node: fx.Node, pad: Any, rows: Any) -> fx.Node:
    """`[M, ...]` with as many zero rows behind as the product had."""
    if pad is None:
        return node
    tail = value(node).shape[1:]
    amount = [*([0, 0] * len(tail)), 0, pad[-1]]
    return build.known(
        fake_empty(value(node), (rows, *tail)), aten.constant_pad_nd.default, node, amount, 0
    )


def unpadded_product(build: Build, product: Product, result: fx.Node) -> fx.Node:
    """The product of the gathered rows without those of the padding."""
    cut = next(
        (link for link in upwards(product.left, UNPADDED) if is_call(link, aten.slice.Tensor)), None
    )
    if cut is None:
        return result
    return build.known(value(product.node), aten.slice.Tensor, result, *cut.args[1:])
