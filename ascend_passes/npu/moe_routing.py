"""Tokens on their way to experts and back: rows in the order of experts, and the weighted sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ascend_passes.npu.accuracy import ONE_ROUNDING, SINGLE, ULP, Bound, halves
from ascend_passes.npu.operator import (
    A2,
    A3,
    FLOATS,
    Arguments,
    Conditions,
    Operator,
    empty,
    is_soc,
    require,
    require_absent,
    require_dtype,
    require_shape,
)

MOST_EXPERTS = 10240
"""Largest number of experts of the routing, where it counts their rows."""
EVERYTHING = (-1, 0)
"""Values of active_num that stand for all slots."""
GATHER, SCATTER = 0, 1
"""row_idx_type: where each slot's row is, or which slot each row is of."""
ROUTED = {
    "drop_pad_mode": 0,
    "expert_tokens_num_type": 1,
    "expert_tokens_num_flag": True,
    "quant_mode": -1,
}
"""The only values of these arguments that are documented as supported and need no quantization."""


def init_routing(
    x: Tensor,
    expert_idx: Tensor,
    *,
    active_num: int = -1,
    expert_num: int = -1,
    row_idx_type: int = GATHER,
    **others: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(rows in the order of their experts, their places, rows of each expert, nothing).

    Tokens [T, H] and their experts [T, K] give [T * K, H], [T * K] and [E]. A slot is
    `token * K + choice`; slots of one expert keep their order. A place is where a slot's row is, or
    the slot that a row is of. The fourth result, a scale that an unquantized call leaves undefined,
    is zero.
    """
    slots = expert_idx.reshape(-1)
    order = slots.argsort(stable=True)
    places = order if row_idx_type == SCATTER else inverse(order)
    counts = slots.new_zeros(expert_num, dtype=torch.int64)
    counts = counts.index_add(0, slots, torch.ones_like(slots, dtype=torch.int64))
    scale = torch.zeros(slots.shape, device=x.device)
    return x[order // expert_idx.shape[1]], places.to(torch.int32), counts, scale


def inverse(order: Tensor) -> Tensor:
    """Where each slot is in an order of all of them."""
    return torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))


def fake_init_routing(
    x: Tensor, expert_idx: Tensor, *, expert_num: int = -1, **_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A row for each slot, and an int64 for each expert."""
    slots = expert_idx.shape[0] * expert_idx.shape[1]
    return (
        empty(x, (slots, x.shape[1])),
        empty(x, (slots,), torch.int32),
        empty(x, (expert_num,), torch.int64),
        empty(x, (slots,), torch.float32),
    )


def init_routing_limits(arguments: Arguments, soc: str) -> Conditions:
    """A2 and A3, unquantized, all experts, counts: of what the documentation says is supported."""
    x, chosen, experts = (arguments[name] for name in ("x", "expert_idx", "expert_num"))
    yield is_soc(soc, A2, A3), f"the limits on {soc} are not known here"
    yield require_dtype("x", x, FLOATS)
    yield require_dtype("expert_idx", chosen, (torch.int32,))
    yield 0 < experts <= MOST_EXPERTS, f"expert_num is {experts} but must be 1 to {MOST_EXPERTS}"
    for name, only in ROUTED.items():
        yield arguments[name] == only, f"{name} is {arguments[name]}, not {only}"
    for name in ("scale", "offset", "x_dtype"):
        yield require_absent(name, arguments[name], "x is not quantized")
    reach = list(arguments["active_expert_range"])
    yield reach == [0, experts], f"active_expert_range is {reach}, not all {experts} experts"
    kinds = (GATHER, SCATTER)
    kind = arguments["row_idx_type"]
    yield kind in kinds, f"row_idx_type is {kind}, not 0 (gather) or 1 (scatter)"
    ranks = x.dim() == chosen.dim() == 2
    yield ranks, f"x and expert_idx have {x.dim()} and {chosen.dim()} dims but must have 2"
    if ranks:
        rows = f"x has {x.shape[0]} rows but expert_idx has {chosen.shape[0]}"
        yield require(x.shape[0] == chosen.shape[0], rows)
        slots = chosen.shape[0] * chosen.shape[1]
        yield from active_limits(arguments["active_num"], slots)


def active_limits(active: Any, slots: Any) -> Conditions:
    """All slots: torch_npu's documentation has -1 and 0 for that, aclnn's their number alone."""
    if isinstance(active, int) and active in EVERYTHING:
        return
    yield require(active == slots, f"active_num is {active} but there are {slots} slots")


def init_routing_example(
    source: torch.Generator, rows: int, width: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Tokens that go to two of seven experts each."""
    chosen = torch.rand(rows, 7, generator=source).argsort(-1)[:, :2].to(torch.int32)
    return {
        "x": torch.randn(rows, 2 * width, generator=source).to(dtype),
        "expert_idx": chosen,
        "expert_num": 7,
        "expert_tokens_num_type": 1,
        "expert_tokens_num_flag": True,
        "active_expert_range": [0, 7],
        "row_idx_type": int(torch.randint(2, (), generator=source)),
    }


def finalize_routing(
    expanded_permuted_rows: Tensor,
    skip1: Tensor | None,
    skip2: Tensor | None,
    bias: Tensor | None,
    scales: Tensor | None,
    expanded_src_to_dst_row: Tensor,
    export_for_source_row: Tensor | None,
    drop_pad_mode: int = 0,
    k: int = 1,
) -> Tensor:
    """The rows that were made for each token, each times its scale, summed: [T, H].

    Of rows [T * K, H] and scales [T, K], in float32, rounded once. The row of choice k of token t
    is at `expanded_src_to_dst_row[t + k * T]`.

    Raises:
        NotImplementedError: anything is added, or there are no scales.
    """
    given = (skip1, skip2, bias, export_for_source_row)
    if scales is None or drop_pad_mode or any(one is not None for one in given):
        raise NotImplementedError("npu_moe_finalize_routing: only the weighted sum has a reference")
    tokens, choices = scales.shape
    places = expanded_src_to_dst_row.view(choices, tokens).T
    weighted = expanded_permuted_rows[places].float() * scales.float().unsqueeze(-1)
    return weighted.sum(1).to(expanded_permuted_rows.dtype)


def exact_finalize_routing(
    expanded_permuted_rows: Tensor,
    skip1: Any,
    skip2: Any,
    bias: Any,
    scales: Tensor,
    expanded_src_to_dst_row: Tensor,
    *_: Any,
    **__: Any,
) -> tuple[Tensor, ...]:
    """The formula of the documentation."""
    tokens, choices = scales.shape
    result = expanded_permuted_rows.new_zeros(tokens, expanded_permuted_rows.shape[1]).double()
    for choice in range(choices):
        for token in range(tokens):
            row = expanded_permuted_rows[expanded_src_to_dst_row[token + choice * tokens]]
            result[token] += scales[token, choice].double() * row.double()
    return (result,)


def fake_finalize_routing(
    expanded_permuted_rows: Tensor,
    skip1: Any,
    skip2: Any,
    bias: Any,
    scales: Tensor | None,
    expanded_src_to_dst_row: Tensor,
    export_for_source_row: Any,
    drop_pad_mode: int = 0,
    k: int = 1,
) -> Tensor:
    """A row for each token."""
    rows = expanded_src_to_dst_row.shape[0] // k if scales is None else scales.shape[0]
    return empty(expanded_permuted_rows, (rows, expanded_permuted_rows.shape[-1]))


def finalize_routing_limits(arguments: Arguments, soc: str) -> Conditions:
    """A2 and A3: rows and scales of one dtype, an int32 place for each slot."""
    rows, scales = arguments["expanded_permuted_rows"], arguments["scales"]
    places, mode = arguments["expanded_src_to_dst_row"], arguments["drop_pad_mode"]
    yield is_soc(soc, A2, A3), f"the limits on {soc} are not known here"
    yield require_dtype("expanded_permuted_rows", rows, FLOATS)
    yield require_dtype("expanded_src_to_dst_row", places, (torch.int32,))
    for name in ("skip1", "skip2", "bias", "export_for_source_row"):
        yield require_absent(name, arguments[name], "has no reference here")
    yield mode == 0, f"drop_pad_mode is {mode}, not 0"
    yield scales is not None, "there are no scales"
    if scales is None:
        return
    yield require_dtype("scales", scales, (rows.dtype,))
    ranks = rows.dim() == scales.dim() == 2
    yield ranks, f"rows and scales have {rows.dim()} and {scales.dim()} dims but must have 2"
    if ranks:
        slots = scales.shape[0] * scales.shape[1]
        count = f"there are {rows.shape[0]} rows but {slots} slots"
        yield require(rows.shape[0] == slots, count)
        yield require_shape("expanded_src_to_dst_row", places, (slots,), "a place for each slot")


def finalize_routing_example(
    source: torch.Generator, rows: int, width: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Two rows for each token, all positive, so that their sum does not cancel."""
    places = torch.rand(2 * rows, generator=source).argsort().to(torch.int32)
    return {
        "expanded_permuted_rows": torch.rand(2 * rows, 2 * width, generator=source).to(dtype),
        **dict.fromkeys(("skip1", "skip2", "bias", "export_for_source_row")),
        "scales": torch.rand(rows, 2, generator=source).to(dtype),
        "expanded_src_to_dst_row": places,
    }


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "npu_moe_init_routing_v2",
        "npu_moe_init_routing_v2(Tensor x, Tensor expert_idx, *, Tensor? scale=None,"
        " Tensor? offset=None, int active_num=-1, int expert_capacity=-1, int expert_num=-1,"
        " int drop_pad_mode=0, int expert_tokens_num_type=0, bool expert_tokens_num_flag=False,"
        " int quant_mode=-1, int[2] active_expert_range=[], int row_idx_type=0,"
        " int? x_dtype=None) -> (Tensor, Tensor, Tensor, Tensor)",
        fake_init_routing,
        init_routing,
        init_routing_limits,
        "torch_npu.npu_moe_init_routing_v2; aclnnMoeInitRoutingV3",
        accuracy="copies rows and counts them",
        example=init_routing_example,
        converter="MoeInitRoutingV3",
    ),
    Operator(
        "npu_moe_finalize_routing",
        "npu_moe_finalize_routing(Tensor expanded_permuted_rows, Tensor? skip1, Tensor? skip2,"
        " Tensor? bias, Tensor? scales, Tensor expanded_src_to_dst_row,"
        " Tensor? export_for_source_row, int? drop_pad_mode=0, int? k=1) -> Tensor",
        fake_finalize_routing,
        finalize_routing,
        finalize_routing_limits,
        "torch_npu.npu_moe_finalize_routing; aclnnMoeFinalizeRoutingV2",
        accuracy=(Bound("out", ULP, halves(ONE_ROUNDING, SINGLE)),),
        exact=exact_finalize_routing,
        example=finalize_routing_example,
        converter="MoeFinalizeRoutingV2",
    ),
)
