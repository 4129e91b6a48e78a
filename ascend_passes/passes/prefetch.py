"""MLP weights are brought into L2 while work that leaves memory idle runs.

The gate and up weights load from the end of attention's output projection on, under the norm; the
down weight loads from the end of the gate and up matmuls on, under the activation. An MLP is found
by its structure: a matmul with a weight, behind an activation, behind one or two such matmuls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ascend_passes import npu  # noqa: F401  # defines the operators
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import Context, argument_of, base, module_path, place, value
from ascend_passes.ir.proof import prove
from ascend_passes.ir.traits import traits_of
from ascend_passes.options.value import MEBIBYTE
from ascend_passes.report.value import Miss, Report

WIDEST_MLP = 2
"""Matmuls in front of an activation: gate_up, or gate and up."""
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
    for node in graph.nodes:
        if weight(node) is None:
            continue
        between, sources = behind(activation(node))
        if len(sources) > WIDEST_MLP or not any(traits_of(n.target).activation for n in between):
            continue
        if sources:
            earlier = {m for source in sources for m in behind(activation(source))[1]}
            yield Mlp(tuple(sorted(sources)), node, max(earlier, default=None))


def weight(node: fx.Node) -> fx.Node | None:
    """The parameter behind a matmul's weight; None for other nodes and computed weights."""
    matmul = traits_of(node.target).matmul
    right = argument_of(node, matmul.right) if matmul is not None else None
    if right is None:
        return None
    owner = base(right)
    return owner if owner.op in ("placeholder", "get_attr") else None


def activation(node: fx.Node) -> fx.Node:
    """The rows that a matmul multiplies."""
    matmul = traits_of(node.target).matmul
    assert matmul is not None
    source = argument_of(node, matmul.left)
    assert isinstance(source, fx.Node)
    return source


def behind(node: fx.Node) -> tuple[set[fx.Node], set[fx.Node]]:
    """What computes `node`, back to the nearest matmuls with weights, and these matmuls."""
    between: set[fx.Node] = set()
    matmuls: set[fx.Node] = set()
    stack = [node]
    while stack:
        here = stack.pop()
        if here in between or here in matmuls:
            continue
        if weight(here) is not None:
            matmuls.add(here)
            continue
        between.add(here)
        stack += here.all_input_nodes
    return between, matmuls


def prefetch_refusal(mlp: Mlp, context: Context) -> str | None:
    """Why nothing is prefetched for an MLP, or None."""
    if mlp.before is None:
        return "no matmul stands in front of the MLP, so nothing would order the prefetch"
    if context.plan is not None:
        return None
    tokens = math.prod(value(activation(mlp.gate_up[0])).shape[:-1])
    limit = context.options.prefetch_tokens
    if not prove(tokens < limit):
        return f"weights are prefetched below {limit} tokens only, which here cannot be proved"
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
