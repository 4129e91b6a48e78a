"""The operator for an integer product that was found: `npu_quant_matmul`."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from ascend_passes import npu
from ascend_passes.meaning.powers import product_of_powers

CODES = MappingProxyType({torch.float16: 5, torch.bfloat16: 15})
"""torch's numbers for the dtypes that the operator gives."""


def built_matmul(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    zero: Tensor | None = None,
    row_scale: Tensor | None = None,
    *,
    powers: tuple[int, ...],
    row_power: int,
    number: float,
    transposed: bool,
    point: float,
    scaled: bool,
    kind: torch.dtype,
    **scales: Tensor,
) -> Tensor:
    """`npu_quant_matmul` of int8 rows [..., K]; what depends on parameters alone is made once."""
    right = weight.permute(1, 0) if transposed else weight
    given = [scales[f"scale{index}"] for index in range(len(powers))]
    ones = () if given else (torch.ones(1, dtype=torch.float32, device=x.device),)
    scale = product_of_powers([*given, *ones], [*powers, *(1 for _ in ones)], number)
    added = bias_for(right, bias, scale, zero, point, scaled)
    per_token = None
    if row_scale is not None:
        per_token = row_scale.reshape(-1).to(torch.float32)
        per_token = per_token if row_power > 0 else 1 / per_token
    multiplied: Tensor = npu.npu_quant_matmul(
        x.reshape(-1, x.shape[-1]),
        right,
        scale,
        pertoken_scale=per_token,
        bias=added,
        output_dtype=CODES.get(kind),
    )
    return multiplied


def bias_for(
    right: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    zero: Tensor | None,
    point: float,
    scaled: bool,
) -> Tensor | None:
    """The bias with what the rows' zero point adds: an integer, unless the bias is a float, which
    takes that scaled."""
    wide = right.shape[-1]
    own = None if bias is None else bias.reshape(-1)
    own = own if own is None or own.numel() == wide else own.expand(wide).contiguous()
    if zero is None and not point:
        return own.to(torch.int32) if scaled and own is not None else own
    sums = right.sum(0, dtype=torch.int32)
    if own is not None and not scaled:
        taken = sums * (point if zero is None else zero.reshape(-1).to(torch.float32))
        return own.to(torch.float32) - taken * scale
    taken = sums * (int(point) if zero is None else zero.reshape(-1).to(torch.int32))
    return -taken if own is None else own.to(torch.int32) - taken
