"""Where FlashComm gathers: the values that all rows are needed of, each where it is cheapest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from ascend_passes.cost import model as cost
from ascend_passes.cost.profiles import Profile
from ascend_passes.ir.graph import value
from ascend_passes.ir.traits import ALL_GATHER
from ascend_passes.passes.flashcomm.row_calls import LocalCall, RowsOf
from ascend_passes.passes.flashcomm.sharded_rows import Rows


@dataclass(frozen=True)
class Shard:
    """A value that each rank can compute for its own rows."""

    rows: Rows
    lead: int
    """Leading dimensions of the value that are rows."""
    call: LocalCall | None = None
    """How its rows are computed; None for an all_reduce, whose rows a reduce_scatter gives."""


def needed_whole(
    shards: dict[fx.Node, Shard], profile: Profile, numeric: cost.Numbers, early: bool
) -> set[fx.Node]:
    """The sharded values to gather: those that others need whole, or what these are computed from.

    A value is computed whole from gathered operands where that is cheaper than gathering it: a view
    of a gathered value costs nothing, and the narrow operand of a widening cast has fewer bytes.
    """
    whole = {node for node in shards if any(needs_whole(user, shards) for user in node.users)}
    for node, shard in reversed(shards.items()):
        if node not in whole or shard.call is None or not early:
            continue
        operands = {one.node for one in shard.call.operands if one.node in shards}
        if any(not isinstance(value(one), Tensor) for one in operands):
            continue
        gathers = sum(
            gather_seconds(one, shards[one].rows, profile, numeric) for one in operands - whole
        )
        if gathers + whole_seconds(node, shard, profile, numeric) <= gather_seconds(
            node, shard.rows, profile, numeric
        ):
            whole = (whole - {node}) | operands
    return whole


def needs_whole(user: fx.Node, shards: Mapping[fx.Node, Shard]) -> bool:
    """Whether a user of a sharded value cannot work with a rank's rows."""
    return user not in shards


def gather_seconds(node: fx.Node, rows: Rows, profile: Profile, numeric: cost.Numbers) -> float:
    """Seconds of an all_gather that brings a value to all ranks."""
    sent = cost.tensor_bytes(value(node), numeric) * (rows.group.size - 1) / rows.group.size
    return profile.collective_seconds(ALL_GATHER, sent)


def whole_seconds(node: fx.Node, shard: Shard, profile: Profile, numeric: cost.Numbers) -> float:
    """Seconds of computing a value for all rows; nothing for a view."""
    if shard.call is None or not shard.call.moves_data:
        return 0.0
    found = cost.operator_cost(node, profile, numeric)
    return found.seconds if found else 0.0


def local_needs(shards: dict[fx.Node, Shard], whole: set[fx.Node]) -> set[fx.Node]:
    """The values whose local rows are computed: what a gather reads, back to the all_reduces.

    An all_reduce whose result is only needed whole is not among them: it stays an all_reduce.
    """
    needed: set[fx.Node] = set()
    for node, shard in reversed(shards.items()):
        wanted = node in needed or (node in whole and shard.call is not None)
        if wanted:
            needed.add(node)
            needed.update(one.node for one in operands_of(shard) if one.node in shards)
    return needed


def operands_of(shard: Shard) -> list[RowsOf]:
    """What a shard's local call reads; nothing for an all_reduce."""
    return shard.call.operands if shard.call is not None else []
