"""The kernels of a graph as values that outlive it: for reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from ascend_passes.cost.model import Numbers, group_size, numbers, operator_cost, tensors
from ascend_passes.cost.profiles import Profile
from ascend_passes.ir.edit import AUTHOR
from ascend_passes.ir.graph import place, value, written
from ascend_passes.ir.lineage import Lineage
from ascend_passes.ir.wording import short
from ascend_passes.report.value import Kernel, Once, Place, Report

Carriers = dict[str, str]
"""Node -> the kernel, or the value kept from earlier, whose memory it shows."""


@dataclass(frozen=True)
class Recorded:
    """A graph's kernels, and which of them the other nodes show."""

    kernels: tuple[Kernel, ...]
    once: tuple[Once, ...]
    carriers: Carriers
    nodes: Set[str]
    """The names of all nodes."""


def recorded(graph: fx.Graph, profile: Profile, keeper: str) -> Recorded:
    """The kernels of a graph, with estimates at the sizes that it was traced with.

    Args:
        graph: with values in `meta["val"]`.
        profile: of the device that the estimates are for.
        keeper: the pass whose new inputs hold values that are computed once.
    """
    numeric, places = numbers(graph, None), dict[tuple[str, str], Place]()
    kernels: list[Kernel] = []
    once: list[Once] = []
    carriers = Carriers()
    for node in graph.nodes:
        if node.op == "placeholder" and node.meta.get(AUTHOR) == keeper:
            once.append(kept_value(node, numeric))
            carriers[node.name] = node.name
        elif node.op == "call_function":
            made = recorded_kernel(node, profile, numeric, carriers, places)
            if made is not None:
                kernels.append(made)
                carriers[node.name] = node.name
                continue
            source = next(iter(node.all_input_nodes), None)
            if source is not None and source.name in carriers:
                carriers[node.name] = carriers[source.name]
    return Recorded(tuple(kernels), tuple(once), carriers, {node.name for node in graph.nodes})


def recorded_kernel(
    node: fx.Node,
    profile: Profile,
    numeric: Numbers,
    carriers: Mapping[str, str],
    places: dict[tuple[str, str], Place],
) -> Kernel | None:
    """A node as a kernel; None for what costs nothing."""
    cost = operator_cost(node, profile, numeric)
    if cost is None:
        return None
    inputs = (carriers.get(one.name) for one in node.all_input_nodes)
    found = place(node)
    return Kernel(
        name=node.name,
        operator=cost.operator,
        inputs=tuple(dict.fromkeys(one for one in inputs if one)),
        result=result_text(node),
        place=places.setdefault((found.module, found.line), found),
        author=str(node.meta.get(AUTHOR, "")),
        seconds=cost.seconds,
        memory_bytes=cost.memory_bytes,
        wire_bytes=cost.wire_bytes,
        collective=cost.collective,
        ranks=group_size(node) if cost.collective else 1,
        writes=bool(written(node)),
    )


def result_text(node: fx.Node) -> str:
    """`bfloat16[1, 16, 64]`; "" for what is no tensor."""
    first = next(tensors(value(node)), None)
    if first is None:
        return ""
    return f"{short(first.dtype)}[{', '.join(map(str, first.shape))}]"


def kept_value(node: fx.Node, numeric: Numbers) -> Once:
    """An input that holds a value computed earlier."""
    fake = value(node)
    count: Any = 1.0
    for size in fake.shape:
        count *= numeric(size)
    return Once(node.name, result_text(node), place(node), count * fake.element_size())


def both_graphs(before: Recorded, after: Recorded, lineage: Lineage) -> Report:
    """Both graphs for a report; what is in the graph after says what it stands for."""
    covers: dict[str, list[str]] = defaultdict(list)
    for kernel in before.kernels:
        heir = lineage.successor(kernel.name, after.nodes)
        if heir in after.carriers:
            covers[after.carriers[heir]].append(kernel.name)
    return Report(
        before=before.kernels,
        after=tuple(replace(one, covers=tuple(covers[one.name])) for one in after.kernels),
        once=tuple(replace(one, covers=tuple(covers[one.name])) for one in after.once),
    )
