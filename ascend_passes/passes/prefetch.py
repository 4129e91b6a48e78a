"""MLP weights are brought into L2 while work that leaves memory idle runs.

The gate and up weights load from the end of attention's output projection on, under the norm; the
down weight loads from the end of the gate and up matmuls on, under the activation. An MLP is found
by its dataflow: a product, behind an activation, behind one or two products with weights, and
nothing between them that may multiply as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ascend_passes import npu  # noqa: F401  # defines the operators
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import (
    Context,
    argument_of,
    base,
    module_path,
    operator_name,
    place,
    value,
)
from ascend_passes.ir.proof import prove
from ascend_passes.ir.traits import NOTHING, traits_of
from ascend_passes.options.value import MEBIBYTE
from ascend_passes.report.value import Miss, Report

WIDEST_MLP = 2
"""Matmuls in front of an activation: gate_up, or gate and up."""
KNOWN = ("aten", "prims", "npu", "atb", "_c10d_functional", "quantized_decomposed")
"""Namespaces whose products have traits: their other operators multiply no matrices."""
STREAM = "weight_prefetch"
"""Label of the side stream."""


@dataclass(frozen=True)
class Mlp:
    """The matmuls of one MLP."""

    gate_up: tuple[fx.Node, ...]
    down: fx.Node
    before: fx.Node | None
    """The last matmul in front of the norm: attention's output projection."""


def prefetch(graph: fx.Graph, context: Context) -> Report:
    """Insert `npu_prefetch` for each MLP where the options and the token count ask for it."""
    wanted = context.plan.prefetch if context.plan is not None else context.options.prefetch
    if not wanted:
        return Report()
    fx.node.has_side_effect(torch.ops.npu.npu_prefetch.default)
    misses: list[Miss] = []
    notes: list[str] = []
    for mlp in list(mlps(graph)):
        reason = prefetch_refusal(mlp, context)
        if reason is not None:
            misses.append(Miss("prefetch", mlp.down.name, place(mlp.down), reason))
            continue
        assert mlp.before is not None
        sizes = context.options
        notes += insert(mlp.gate_up, mlp.before, sizes.gate_up_prefetch_size)
        notes += insert((mlp.down,), max(mlp.gate_up), sizes.down_prefetch_size)
    place_on_side_stream(graph)
    return Report(fired={"prefetch": len(notes)}, misses=tuple(misses), notes=tuple(notes))


def mlps(graph: fx.Graph) -> Iterator[Mlp]:
    """Every MLP of the graph."""
    for node in filter(is_product, graph.nodes):
        between, sources = behind(multiplied(node))
        if not 1 <= len(sources) <= WIDEST_MLP or any(map(may_multiply, between)):
            continue
        if not any(traits_of(n.target).activation for n in between):
            continue
        if all(weight(source) is not None for source in sources):
            earlier = {m for source in sources for m in behind(multiplied(source))[1]}
            yield Mlp(tuple(sorted(sources)), node, max(earlier, default=None))


def is_product(node: fx.Node) -> bool:
    """Whether a node multiplies by a weight, in the graph or in its module."""
    return weight(node) is not None or traits_of(node.target).hides_weight


def may_multiply(node: fx.Node) -> bool:
    """Whether a node that is no product by a weight may be one all the same: a product by something
    computed or by experts, or an operator that nobody declared."""
    traits, name = traits_of(node.target), operator_name(node)
    if traits.matmul is not None or traits.multiplies:
        return True
    return bool(name) and name.partition("::")[0] not in KNOWN and traits is NOTHING


def weight(node: fx.Node) -> fx.Node | None:
    """The parameter behind a matmul's weight; None for other nodes and computed weights."""
    matmul = traits_of(node.target).matmul
    right = argument_of(node, matmul.right) if matmul is not None else None
    if right is None:
        return None
    owner = base(right)
    return owner if owner.op in ("placeholder", "get_attr") else None


def multiplied(node: fx.Node) -> fx.Node:
    """The rows that a product multiplies."""
    matmul = traits_of(node.target).matmul
    source = node.args[0] if matmul is None else argument_of(node, matmul.left)
    assert isinstance(source, fx.Node)
    return source


def behind(node: fx.Node) -> tuple[set[fx.Node], set[fx.Node]]:
    """What computes `node`, back to the nearest products by weights, and these products."""
    between: set[fx.Node] = set()
    matmuls: set[fx.Node] = set()
    stack = [node]
    while stack:
        here = stack.pop()
        if here in between or here in matmuls:
            continue
        if is_product(here):
            matmuls.add(here)
            continue
        between.add(here)
        stack += here.all_input_nodes
    return between, matmuls


def prefetch_refusal(mlp: Mlp, context: Context) -> str | None:
    """Why nothing is prefetched for an MLP, or None."""
    if mlp.before is None:
        return "no matmul stands in front of the MLP, so nothing would order the prefetch"
    if traits_of(mlp.down.target).hides_weight:
        return f"{operator_name(mlp.down)} keeps the down weight in its module"
    loaded = next(filter(None, map(loader, (*mlp.gate_up, mlp.down))), None)
    if loaded is not None:
        return f"{operator_name(loaded)} loads its weights already"
    if context.plan is not None:
        return None
    tokens = math.prod(value(multiplied(mlp.gate_up[0])).shape[:-1])
    limit = context.options.prefetch_tokens
    if not prove(tokens < limit):
        return f"weights are prefetched below {limit} tokens only, which here cannot be proved"
    return None


def loader(product: fx.Node) -> fx.Node | None:
    """The call that prefetches a product's weight in the graph as it came, if there is one."""
    parameter = weight(product)
    assert parameter is not None
    for node in parameter.users:
        argument = traits_of(node.target).prefetches
        if argument and argument_of(node, argument) is parameter:
            return node
    return None


def insert(matmuls: tuple[fx.Node, ...], dependency: fx.Node, budget: int) -> Iterator[str]:
    """Prefetch the matmuls' weights after `dependency`, `budget` bytes in all; a note for each."""
    ready = tensor_of(dependency)
    after = ready
    for matmul in matmuls:
        parameter = weight(matmul)
        assert parameter is not None
        size = min(budget, value(parameter).nbytes)
        if size <= 0:
            return
        budget -= size
        with Editor(matmul.graph, "prefetch").at(matmul, after.next) as edit:
            target = torch.ops.npu.npu_prefetch.default
            after = edit.known(None, target, parameter, ready, size, 0)
        where = module_path(dependency) or dependency.name
        yield (
            f"prefetch {size / MEBIBYTE:.3g} MiB of {module_path(matmul) or parameter.name}"
            f" after {where}"
        )


def tensor_of(node: fx.Node) -> fx.Node:
    """A result of `node` that is a tensor: itself, or the first part that is read."""
    if isinstance(value(node), Tensor):
        return node
    return min(user for user in node.users if isinstance(value(user), Tensor))


def place_on_side_stream(graph: fx.Graph) -> int:
    """Put each prefetch on a side stream that starts when its dependency is there.

    Uses npugraph_ex's scopes, which join every stream before a capture ends. Returns how many were
    placed: none on machines without npugraph_ex, where `npu_prefetch` computes nothing.
    """
    streams = torch.ops.npugraph_ex
    if not all(hasattr(streams, name) for name in ("scope_enter", "scope_exit", "wait")):
        return 0
    for name in ("scope_enter", "scope_exit", "wait"):
        fx.node.has_side_effect(getattr(streams, name).default)
    nodes = graph.find_nodes(op="call_function", target=torch.ops.npu.npu_prefetch.default)
    for node in nodes:
        edit = Editor(graph, "prefetch")
        with edit.at(node):
            edit.known(None, streams.scope_enter.default, ["_user_stream_label"], [STREAM])
            edit.known(None, streams.wait.default, [node.args[1]])
        with edit.at(node, node.next):
            edit.known(None, streams.scope_exit.default)
    return len(nodes)
