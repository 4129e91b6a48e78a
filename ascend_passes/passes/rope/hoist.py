"""Cosines and sines of the positions are looked up once for all layers that share a table.

`npu_mrope` looks up inside the kernel, in each layer. Where several calls share positions, table,
head size and style, they become one lookup and a rotation per layer. What spells the lookup out has
it merged by `deduplicate`; `share_tables` lets layers with tables of their own, equal in content,
share one. Tables, positions or styles that differ stay apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import npu  # noqa: F401  # defines the operators
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site
from ascend_passes.ir.arguments import arguments
from ascend_passes.ir.content import comparable, same_bits
from ascend_passes.ir.graph import Context, place
from ascend_passes.ir.in_place import FUNCTIONALIZED, readers
from ascend_passes.passes.constants.facts import untouched
from ascend_passes.passes.constants.merge_equal import Pair, share, tensor_layout
from ascend_passes.passes.rope.cached_rotation import rotary_embedding
from ascend_passes.report.value import Miss, Report

aten = torch.ops.aten
LOOKUPS: Mapping[Any, int] = {
    aten.index_select.default: 0,
    aten.index.Tensor: 0,
    aten.gather.default: 0,
    torch.ops.npu.npu_mrope.default: 3,
}
"""Operators that read rows of a table -> the position of the table among their arguments."""
NAMES = (
    "positions",
    "query",
    "key",
    "cos_sin_cache",
    "head_size",
    "sections",
    "mode",
    "cache_mode",
)


def hoist_rope(graph: fx.Graph, context: Context) -> Report:
    """Look up once where several `npu_mrope` share a table, in place.

    Their results stay equal bit by bit: both operators compute in float32 and round once.
    """
    groups: dict[Any, list[fx.Node]] = {}
    for node in graph.find_nodes(op="call_function", target=torch.ops.npu.npu_mrope.default):
        given = dict(zip(NAMES, arguments(node), strict=True))
        key = tuple(given[name] for name in NAMES if name not in ("query", "key"))
        groups.setdefault(key, []).append(node)
    fired = 0
    misses: list[Miss] = []
    for nodes in (nodes for nodes in groups.values() if len(nodes) > 1):
        for node in nodes:
            reason = spell_out(node, context)
            if reason is None:
                fired += 1
            else:
                misses.append(Miss("hoist_rope", node.name, place(node), reason, complete=True))
    remove_dead(graph)
    return Report(fired={"hoist_rope": fired}, misses=tuple(misses))


def spell_out(node: fx.Node, context: Context) -> str | None:
    """Exchange an `npu_mrope` for a lookup and rotations; the reason where that is not possible."""
    given = dict(zip(NAMES, arguments(node), strict=True))
    if given["sections"] is not None and any(given["sections"]):
        return "its sections take the angles from three rows of positions"
    given["is_neox"] = given["mode"] in (None, "half")
    try:
        rotated = list(rotary_embedding(Site(node, context.options.soc), given).values())
    except Refused as refused:
        return str(refused)
    for index, results in readers(node).items():
        for result in results:
            result.replace_all_uses_with(rotated[index])
    return None


def share_tables(graph: fx.Graph, context: Context) -> Report:
    """Let lookups in tables of equal content read one table, whatever its size, in place.

    The content is compared bit by bit, and again at each call: the facts lie on the placeholders.
    """
    constants = {n: t for n, t in untouched(graph, context).items() if comparable(t)}
    tables = dict.fromkeys(
        source for node in graph.nodes if (source := table_of(node)) in constants
    )
    pairs = equal_pairs({node: constants[node] for node in tables})
    return Report(fired={"share_tables": share(pairs, constants)})


def equal_pairs(tables: Mapping[fx.Node, Tensor]) -> Iterator[Pair]:
    """Each table that has the content of an earlier one, with that one in front of it."""
    known: dict[Any, list[fx.Node]] = {}
    for node, table in tables.items():
        alike = known.setdefault(tensor_layout(table), [])
        twin = next((other for other in alike if same_bits(tables[other], table)), None)
        if twin is None:
            alike.append(node)
        else:
            yield twin, node


def table_of(node: fx.Node) -> Any:
    """The table that a node looks up rows of: cosines and sines, or something read alike."""
    if node.target in FUNCTIONALIZED:
        return node.kwargs.get("cos_sin_cache")
    return node.args[LOOKUPS[node.target]] if node.target in LOOKUPS else None
