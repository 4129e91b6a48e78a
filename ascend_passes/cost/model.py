"""The cost model: what a graph takes on a device, operator by operator.

Each operator takes the longer of its arithmetic and its memory traffic, plus a launch; a
collective takes a latency plus its bytes on the wire. Operators do not overlap: the estimate
compares two forms of one graph, it does not predict a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import sympy
import torch
from torch import Tensor, fx

from ascend_passes.cost.profiles import Profile
from ascend_passes.distributed.groups import FUNCTIONAL, group_name, resolve
from ascend_passes.ir.graph import argument_of, is_view_target, operator_name, value
from ascend_passes.ir.in_place import FUNCTIONALIZED
from ascend_passes.ir.traits import (
    ALL_GATHER,
    ALL_REDUCE,
    REDUCE_SCATTER,
    Matmul,
    name_of,
    rests_on_traits,
    traits_of,
)


class OperatorCost(NamedTuple):
    """One operator's share of an estimate; a graph has thousands, see `ir/blueprint.py`."""

    node: str
    operator: str
    seconds: float
    memory_bytes: float
    wire_bytes: float = 0.0
    """Bytes this rank sends."""
    collective: str = ""


@dataclass(frozen=True)
class Estimate:
    """What a graph takes, with the parts it is made of."""

    operators: tuple[OperatorCost, ...]

    @property
    def seconds(self) -> float:
        """Seconds of one run."""
        return math.fsum(one.seconds for one in self.operators)

    @property
    def wire_bytes(self) -> float:
        """Bytes each rank sends in one run."""
        return math.fsum(one.wire_bytes for one in self.operators)

    @property
    def memory_bytes(self) -> float:
        """Bytes read and written in device memory."""
        return math.fsum(one.memory_bytes for one in self.operators)

    def collectives(self) -> dict[str, int]:
        """Kind of collective -> how many."""
        kinds = [one.collective for one in self.operators if one.collective]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def by_operator(self) -> dict[str, float]:
        """Operator -> seconds, the most expensive first."""
        totals: dict[str, float] = {}
        for one in self.operators:
            totals[one.operator] = totals.get(one.operator, 0.0) + one.seconds
        return dict(sorted(totals.items(), key=lambda item: -item[1]))


Numbers = Callable[[Any], float]
"""Turns a size, symbolic or not, into a number."""


def estimate(graph: fx.Graph, profile: Profile, tokens: int | None = None) -> Estimate:
    """What a graph takes with this many tokens; None takes the sizes it was traced with."""
    return estimate_nodes(graph.nodes, profile, numbers(graph, tokens))


def estimate_nodes(nodes: Iterable[fx.Node], profile: Profile, numeric: Numbers) -> Estimate:
    """`estimate` of some nodes, for graphs that do not exist yet."""
    costs = (operator_cost(node, profile, numeric) for node in nodes)
    return Estimate(tuple(cost for cost in costs if cost is not None))


def operator_cost(node: fx.Node, profile: Profile, numeric: Numbers) -> OperatorCost | None:
    """The cost of one node; None for what costs nothing."""
    if node.op == "call_function" and node.target in FUNCTIONALIZED:
        return wrapped_cost(node, profile, numeric)
    if node.op != "call_function" or takes_no_time(node.target):
        return None
    name, traits = operator_name(node), traits_of(node.target)
    parts = [*tensors(value(node)), *(t for n in node.all_input_nodes for t in tensors(value(n)))]
    memory = math.fsum(tensor_bytes(t, numeric) for t in parts)
    seconds = memory / profile.memory_bandwidth
    launch = profile.vector_launch
    if traits.matmul is not None:
        seconds = max(seconds, arithmetic_seconds(node, traits.matmul, profile, numeric))
        launch = profile.matmul_launch
    kind = traits.collective
    if not kind:
        return OperatorCost(node.name, name, seconds + launch, memory)
    sent = wire_bytes(node, kind, numeric)
    latency = profile.collective_seconds(kind, 0.0)
    wire = profile.collective_seconds(kind, sent) - latency
    # A fused operator overlaps its arithmetic with its bytes, but not with the latency.
    total = launch + latency + max(seconds, wire) if traits.matmul else latency + wire
    return OperatorCost(node.name, name, total, memory, sent, kind)


def wrapped_cost(node: fx.Node, profile: Profile, numeric: Numbers) -> OperatorCost | None:
    """The cost of an operator that writes its arguments, in the form that AOTAutograd gives it: as
    of the call in place that it becomes in the end, whose results the written ones are not."""
    inner: Any = node.args[0]
    if takes_no_time(inner):
        return None
    made = tensors(value(node)[: len(inner._schema.returns)])
    parts = [*made, *(t for n in node.all_input_nodes for t in tensors(value(n)))]
    memory = math.fsum(tensor_bytes(t, numeric) for t in parts)
    seconds = memory / profile.memory_bandwidth + profile.vector_launch
    return OperatorCost(node.name, name_of(inner), seconds, memory)


@rests_on_traits
def takes_no_time(target: Any) -> bool:
    """Whether calls of what a node calls cost nothing: views, and what is no operator."""
    if not isinstance(target, torch._ops.OpOverload):
        return True
    return traits_of(target).free or is_view_target(target)


def arithmetic_seconds(node: fx.Node, matmul: Matmul, profile: Profile, numeric: Numbers) -> float:
    """Seconds of a matmul's multiplications and additions."""
    left, right = (value(argument_of(node, name)) for name in (matmul.left, matmul.right))
    rows = math.prod(numeric(size) for size in left.shape)
    if traits_of(node.target).collective == ALL_GATHER:
        rows *= group_size(node)
    columns = right.shape[-2 if matmul.transposed else -1]
    dtype = str(left.dtype).removeprefix("torch.")
    return 2.0 * rows * numeric(columns) / profile.matmul_rate(dtype)


def wire_bytes(node: fx.Node, kind: str, numeric: Numbers) -> float:
    """Bytes that a rank sends, by the algorithms that send least.

    With n ranks and b bytes of the whole tensor: (n - 1) / n * b for all_gather and reduce_scatter,
    twice that for all_reduce (Thakur, Rabenseifner and Gropp, 2005).
    """
    ranks, matmul = group_size(node), traits_of(node.target).matmul
    if matmul is not None:
        given = (argument_of(node, name) for name in (matmul.left, matmul.row_scale))
        moved = [value(n) for n in given if isinstance(n, fx.Node)]
        gathered = sum(tensor_bytes(tensor, numeric) for tensor in moved) * ranks
        out = tensor_bytes(next(iter(tensors(value(node)))), numeric)
        whole = {ALL_GATHER: gathered, REDUCE_SCATTER: out * ranks, ALL_REDUCE: out}[kind]
    else:
        moved = [t for n in node.all_input_nodes for t in tensors(value(n))]
        size = math.fsum(tensor_bytes(t, numeric) for t in moved)
        whole = size * ranks if kind == ALL_GATHER else size
    return (2 if kind == ALL_REDUCE else 1) * whole * (ranks - 1) / ranks


def group_size(node: fx.Node) -> int:
    """Ranks of a collective: written in the call, or asked of its group; 1 where unknown."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((entry.name for entry in schema), node.args, strict=False)) | dict(node.kwargs)
    for key in ("group_size", "world_size", "tpRankSize"):
        if isinstance(given.get(key), int):
            return int(given[key])
    family = operator_name(node).partition("::")[0]
    name = given["hcom"] if "hcom" in given else group_name(node)
    group = resolve(str(name), FUNCTIONAL if family == "npu" else family)
    return group.size if group else 1


def tensors(given: Any) -> Iterator[Tensor]:
    """The tensors of a value."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, (tuple, list)):
        for one in given:
            yield from tensors(one)


def tensor_bytes(tensor: Tensor, numeric: Numbers) -> float:
    """Bytes of a tensor's elements."""
    count = tensor.numel()
    if not isinstance(count, int):
        count = math.prod(numeric(size) for size in tensor.shape)
    return float(count * tensor.element_size())


def numbers(graph: fx.Graph, tokens: int | None) -> Numbers:
    """Sizes as numbers: the matmuls' rows are `tokens`, other symbols as they were traced."""
    rows = token_rows(graph) if tokens is not None else None
    known: dict[Any, float] = {}
    chosen: dict[sympy.Symbol, sympy.Integer] = {}
    if rows is not None and tokens is not None:
        first, *others = sorted(rows.node.expr.free_symbols, key=str, reverse=True)
        # Of B * S rows one symbol takes all tokens and the others are one: a single long sequence.
        chosen = {first: sympy.Integer(tokens)} | dict.fromkeys(others, sympy.Integer(1))

    def numeric(size: Any) -> float:
        if not isinstance(size, torch.SymInt):
            return float(size)
        key = size.node.expr
        if key not in known:
            expression = sympy.sympify(key).xreplace(chosen)
            if expression.free_symbols:
                expression = expression.xreplace(hints(size, expression.free_symbols))
            known[key] = float(expression)
        return known[key]

    return numeric


def hints(
    size: torch.SymInt, symbols: Iterable[sympy.Symbol]
) -> Mapping[sympy.Symbol, sympy.Integer]:
    """The numbers that symbols had when the graph was traced; 1 for a symbol without."""
    environment = size.node.shape_env
    # torch 2.13 warns where it is asked for the name of earlier versions.
    name = "backed_var_to_val" if hasattr(environment, "backed_var_to_val") else "var_to_val"
    known = getattr(environment, name, {})
    return {symbol: sympy.Integer(int(known.get(symbol, 1))) for symbol in symbols}


def token_rows(graph: fx.Graph) -> torch.SymInt | None:
    """The symbolic number of rows of the first matmul that has one; None where all are static."""
    symbolic = (rows for rows in left_rows(graph) if isinstance(rows, torch.SymInt))
    # A size that was found to be a number, behind the trace of it, has a SymInt without a symbol.
    return next((rows for rows in symbolic if rows.node.expr.free_symbols), None)


def matmul_rows(graph: fx.Graph) -> int | torch.SymInt | None:
    """The number of rows of the first matmul, a symbolic one if there is any; None without one."""
    symbolic = token_rows(graph)
    return symbolic if symbolic is not None else next(left_rows(graph), None)


def left_rows(graph: fx.Graph) -> Iterator[int | torch.SymInt]:
    """The rows of each matmul's left factor, where that is a matrix."""
    for node in graph.nodes:
        matmul = traits_of(node.target).matmul
        left = value(argument_of(node, matmul.left)) if matmul is not None else None
        if left is not None and left.dim() == 2:
            yield left.shape[0]


Seconds = Callable[[int], float]
"""Estimated seconds for a number of tokens."""


MOST_TOKENS = 65536
"""No step is taken to have more tokens: estimates look no further for a crossing."""


def crossing(before: Seconds, after: Seconds, high: int = MOST_TOKENS, low: int = 0) -> int | None:
    """The least number of tokens up to `high` from which `after` takes less time than `before`.

    None where `after` does not win at `high`. The winner is taken to change once, as it does for a
    latency against a cost per token; where it changes more often, the result is one of the turns.

    Args:
        before: estimated seconds of one form for a number of tokens.
        after: those of the other.
        high: where to look no further.
        low: a number of tokens at which `after` is known not to win; the result is above it.
    """
    if after(high) >= before(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if after(middle) < before(middle):
            high = middle
        else:
            low = middle
    return high
