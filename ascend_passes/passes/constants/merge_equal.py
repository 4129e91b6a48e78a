"""Parameters of equal content share an input where that makes two computations one.

Three equal scales let one quantize serve q, k and v. What equal parameters do to different rows
stays two computations, so there nothing is gained and nothing is merged: each merged pair is a
`Fact` that every call checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx

from ascend_passes.ir.arguments import arguments
from ascend_passes.ir.content import comparable, same_bits, words
from ascend_passes.ir.graph import Context, base, written_bases
from ascend_passes.ir.trace import unobserved
from ascend_passes.passes.constants.facts import EQUAL_LIMIT, Fact, record, untouched
from ascend_passes.passes.deduplicate import frozen, is_pure
from ascend_passes.report.value import Report

Pair = tuple[fx.Node, fx.Node]


def merge_equal(graph: fx.Graph, context: Context) -> Report:
    """Let equal parameters of at most 65536 elements share one placeholder, in place.

    The merged placeholders stay, unused; `deduplicate` then makes the computations one.
    """
    candidates = {
        node: tensor
        for node, tensor in untouched(graph, context).items()
        if comparable(tensor) and tensor.numel() <= EQUAL_LIMIT
    }
    alike = {node: tensor_layout(tensor) for node, tensor in candidates.items()}
    if len(set(alike.values())) == len(alike):
        return Report()
    possible = {node for pair in differing_pairs(graph, alike) for node in pair}
    if not possible:
        return Report()
    equal = {node: (alike[node], content(candidates[node])) for node in possible}
    return Report(fired={"merge_equal": share(differing_pairs(graph, equal), candidates)})


def tensor_layout(tensor: Tensor) -> tuple[Any, ...]:
    """What tensors must have in common to be equal, beside their content."""
    return tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride()


def content(tensor: Tensor) -> bytes:
    """The bits of a tensor."""
    with unobserved():
        return bytes(words(tensor).cpu().numpy().tobytes())


def share(pairs: Iterator[Pair], constants: Mapping[fx.Node, Tensor]) -> int:
    """Let the second of each pair be read nowhere; returns how many were exchanged.

    Args:
        pairs: placeholders of equal content.
        constants: their tensors.
    """
    twins: dict[fx.Node, fx.Node] = {}
    for one, other in pairs:
        kept, merged = sorted((twins.get(one, one), twins.get(other, other)))
        if kept is not merged:
            twins = {node: kept if twin is merged else twin for node, twin in twins.items()}
            twins[merged] = kept
    found = 0
    for merged, kept in twins.items():
        if same_bits(constants[merged], constants[kept]):
            record(merged, Fact(str(merged.target), str(kept.target)))
            merged.replace_all_uses_with(kept)
            found += 1
    return found


def differing_pairs(graph: fx.Graph, classes: Mapping[fx.Node, Any]) -> Iterator[Pair]:
    """Pairs of parameters that alone keep two computations on other values apart.

    Args:
        graph: is not changed meanwhile.
        classes: parameter -> what those have in common that are taken for equal.
    """
    numbers, constant = numbered(graph, classes)
    first: dict[int, fx.Node] = {}
    pairs: dict[Pair, None] = {}
    for node in graph.nodes:
        known = first.setdefault(numbers[node], node)
        if known is not node and node not in constant:
            pairs |= dict.fromkeys(differing_parameters(known, node, constant))
    yield from pairs


def numbered(
    graph: fx.Graph, classes: Mapping[fx.Node, Any]
) -> tuple[dict[fx.Node, int], set[fx.Node]]:
    """Equal numbers for nodes of equal value, and the nodes that come from the parameters alone."""
    touched = written_bases(graph)
    keys: dict[Any, int] = {}
    numbers: dict[fx.Node, int] = {}
    constant = set(classes)
    for node in graph.nodes:
        sources = node.all_input_nodes
        numbers[node] = keys.setdefault(value_key(node, classes, numbers, touched), len(keys))
        if sources and node.op == "call_function" and constant.issuperset(sources):
            constant.add(node)
    return numbers, constant


def value_key(
    node: fx.Node,
    classes: Mapping[fx.Node, Any],
    numbers: Mapping[fx.Node, int],
    touched: set[fx.Node],
) -> Any:
    """What nodes of equal value have in common; the node itself where no other can be equal."""
    if node in classes:
        return classes[node]
    read = [node, *node.all_input_nodes]
    if not is_pure(node) or any(base(source) in touched for source in read):
        return node
    given = fx.map_arg(arguments(node), lambda source: ("value", numbers[source]))
    try:
        hash(found := (node.target, frozen(given)))
    except TypeError:  # an argument that cannot be hashed, such as a SymInt in a list
        return node
    return found


def differing_parameters(one: fx.Node, other: fx.Node, constant: set[fx.Node]) -> Iterator[Pair]:
    """The parameters in which two nodes of one number differ.

    Arguments that are no parameters' work have numbers, and pairs, of their own.
    """
    for left, right in zip(read_by(one), read_by(other), strict=True):
        if left is right or left not in constant:
            continue
        if left.op == "placeholder":
            yield left, right
        else:
            yield from differing_parameters(left, right, constant)


def read_by(node: fx.Node) -> list[fx.Node]:
    """The nodes among a call's arguments, one for each place."""
    found: list[fx.Node] = []

    def keep(source: fx.Node) -> fx.Node:
        found.append(source)
        return source

    fx.map_arg(arguments(node), keep)
    return found
