"""Where a reduce_scatter's zero rows are appended: not to the partial sums, but where it is cheap.

    pad(f(a, w))              = f(pad(a), w)      f works row by row, a matmul for example
    pad(unpad(all_gather(x))) = all_gather(x)

Both hold for the rows that are tokens. The rows behind them may hold anything: no other row depends
on them, and the next unpad cuts them off. A value is computed on padded rows only if nobody reads
it without them, so nothing is computed twice.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from ascend_passes.cost import model as cost
from ascend_passes.cost.profiles import Profile
from ascend_passes.ir.graph import value
from ascend_passes.passes.flashcomm.build import Build
from ascend_passes.passes.flashcomm.gathers import Shard
from ascend_passes.passes.flashcomm.product import read_product
from ascend_passes.passes.flashcomm.row_calls import Answer, LeadOf, LocalCall, RowsOf
from ascend_passes.passes.flashcomm.row_operators import (
    handler,
    leading,
    local_call,
    one_of_several,
)
from ascend_passes.passes.flashcomm.sharded_rows import Rows, computed, flattened, padded, reduce_of


@dataclass(frozen=True)
class Price:
    """What padding costs on a device."""

    profile: Profile
    numeric: cost.Numbers

    def seconds(self, node: fx.Node) -> float:
        """Seconds of appending zero rows to a value: it is read and written once."""
        moved = 2 * cost.tensor_bytes(value(node), self.numeric)
        return self.profile.vector_launch + moved / self.profile.memory_bandwidth


def computed_padded(
    rows: Rows, needed: Mapping[fx.Node, Shard], whole: set[fx.Node], price: Price | None
) -> dict[fx.Node, LocalCall]:
    """The values to compute on padded rows, each with its call; what they read is padded before.

    Args:
        rows: the stream; where tp divides its rows nothing is padded.
        needed: the values of all streams whose local rows are computed.
        whole: those that are gathered, and so come with padded rows.
        price: what padding costs; without it the partial sums are padded.
    """
    if rows.exact or price is None:
        return {}
    own = {node: shard for node, shard in needed.items() if shard.rows is rows}
    reduces = {reduce_of(node): shard.lead for node, shard in own.items() if shard.call is None}
    leads = {node: shard.lead for node, shard in own.items() if node in whole}
    if not reduces:
        return {}
    calls = calls_between(rows, reduces, leads)
    worth = worth_padding(calls, leads, price)
    chosen: dict[fx.Node, LocalCall] = {}
    for node, call in reversed(calls.items()):
        fits = (user in chosen or reduces.get(user) == call.lead for user in result_readers(node))
        if node in worth and all(fits):
            outputs = {
                one: one_of_several(one, call.lead) for one in read_results(node) if one != node
            }
            chosen |= {node: call, **outputs}
    return chosen


def calls_between(
    rows: Rows, reduces: Mapping[fx.Node, int], leads: Mapping[fx.Node, int]
) -> dict[fx.Node, LocalCall]:
    """The calls of all row-wise values that only `reduces` read in the end, in graph order.

    `reduces` and the gathered values in `leads` come with their row dimensions.
    """
    region: dict[fx.Node, None] = {}
    for node in reversed(next(iter(reduces)).graph.nodes):
        row_wise = handler(node) is not None or read_product(node) is not None
        if not row_wise or any(result in leads for result in read_results(node)):
            continue
        read = list(result_readers(node))
        if read and all(user in region or user in reduces for user in read):
            region[node] = None
    known = dict(leads)
    calls: dict[fx.Node, LocalCall] = {}
    lead_of = lambda node: known.get(node) or leading_rows(node, rows)  # noqa: E731
    for node in reversed(region):
        call = call_on_rows(node, lead_of)
        if isinstance(call, LocalCall) and call.operands:
            calls[node] = call
            known |= dict.fromkeys(read_results(node), call.lead)
    return calls


def call_on_rows(node: fx.Node, lead_of: LeadOf) -> Answer:
    """`local_call`, and matmuls: each row of the left factor gives a row of the product."""
    product = read_product(node)
    if product is None:
        return local_call(node, lead_of)
    lead = value(product.left).dim() - 1
    own = {product.left: lead}
    if product.per_token is not None:
        own[product.per_token] = value(product.per_token).dim()
    shared = (product.bias, product.scale)
    if any(one is not None and value(one).dim() != 1 for one in shared):
        return "a factor of the product has rows of its own"
    if value(product.right).dim() != 2 or any(lead_of(one) != own[one] for one in own):
        return "its rows are not the stream's"
    local: dict[fx.Node, Any] = {one: RowsOf(one, own[one]) for one in own}
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: local.get(n, n))
    return LocalCall("pad_early", node.target, args, kwargs, lead)


def leading_rows(node: fx.Node, rows: Rows) -> int:
    """The least number of leading dimensions that hold the stream's rows; 0 where none do."""
    if not isinstance(value(node), Tensor):
        return 0
    return leading((*value(node).shape, 1), rows.count)  # a row may have no columns: its scale


def worth_padding(
    calls: Mapping[fx.Node, LocalCall], leads: Mapping[fx.Node, int], price: Price
) -> set[fx.Node]:
    """The values whose operands are padded for less than they are themselves.

    An operand that two values read is counted for both.
    """
    least: dict[fx.Node, float] = {}
    worth = set()

    def seconds(node: fx.Node) -> float:
        if node in leads:
            return 0.0
        source = producer(node)
        return least[source] / len(read_results(source)) if source in least else price.seconds(node)

    for node, call in calls.items():
        before = math.fsum(seconds(one.node) for one in call.operands)
        after = math.fsum(price.seconds(one) for one in read_results(node))
        least[node] = min(before, after)
        if before <= after:
            worth.add(node)
    return worth


def padded_value(
    build: Build, given: RowsOf, rows: Rows, calls: Mapping[fx.Node, LocalCall], place: fx.Node
) -> fx.Node:
    """All rows of a value and padding behind them, `[R * tp, ...]`; new nodes stand behind `place`.

    The values in `calls` are computed on padded rows, others are padded.
    """
    node = given.node
    if (node, given.lead) in build.padded:
        return build.padded[node, given.lead]
    if node in calls:
        total = rows.each * rows.group.size
        operands = {
            one: padded_value(build, one, rows, calls, place) for one in calls[node].operands
        }
        with build.behind(node, place):
            made = computed(build, node, calls[node], total, operands.__getitem__)
    else:
        with build.behind(node, place):
            made = padded(build, rows, flattened(build, rows, node, given.lead))
    build.padded[node, given.lead] = made
    return made


def producer(node: fx.Node) -> fx.Node:
    """The operator of which a node is one of several results; the node itself for others."""
    source = node.args[0] if node.target is operator.getitem else node
    assert isinstance(source, fx.Node)
    return source


def read_results(node: fx.Node) -> list[fx.Node]:
    """The results that others read of an operator: its own, or each of several."""
    taken = [user for user in node.users if user.target is operator.getitem and user.users]
    return taken or [node]


def result_readers(node: fx.Node) -> Iterator[fx.Node]:
    """Who reads the results of an operator."""
    for result in read_results(node):
        yield from (user for user in result.users if user.target is not operator.getitem)
