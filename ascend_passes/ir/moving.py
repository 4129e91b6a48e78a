"""Whether a computation may be done at another place of its graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import fx

from ascend_passes.ir.graph import base, is_boundary, written


def between(first: fx.Node, last: fx.Node) -> Iterator[fx.Node]:
    """The nodes behind the first and in front of the last."""
    node = first.next
    while node is not last:
        yield node
        node = node.next


def written_between(first: fx.Node, last: fx.Node, read: Iterable[fx.Node]) -> bool:
    """Whether memory of what is read is written behind the first node and in front of the last."""
    owners = {base(node) for node in read}
    return any(owners & {base(target) for target in written(node)} for node in between(first, last))


def boundary_between(first: fx.Node, last: fx.Node) -> bool:
    """Whether something stands between two nodes that others must not be moved across."""
    return any(map(is_boundary, between(first, last)))
