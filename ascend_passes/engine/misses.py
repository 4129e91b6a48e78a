"""Which refusals a report tells."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from torch import fx

from ascend_passes.engine.bind import WrongDtype
from ascend_passes.engine.template_value import Template
from ascend_passes.ir.graph import place
from ascend_passes.report.value import Miss


class Refusal(NamedTuple):
    """A `Miss` before it is told: most of them are not, since only the last sweep's are."""

    rule: str
    node: fx.Node
    reason: str
    depth: int
    complete: bool

    def told(self) -> Miss:
        """The miss, in terms of the model; while the node is in its graph."""
        where = place(self.node)
        return Miss(self.rule, self.node.name, where, self.reason, self.depth, self.complete)


def worth_telling(refused: Sequence[Refusal]) -> list[Refusal]:
    """Of the misses at one node, the widest spelling's first: those of whole matches, for each rule
    the one that came furthest, else the one of all that did; those of templates for another dtype
    come last."""
    whole: dict[str, Refusal] = {}
    for one in refused:
        if one.complete and (one.rule not in whole or one.depth > whole[one.rule].depth):
            whole[one.rule] = one
    if whole or not refused:
        return list(whole.values())

    def weight(one: Refusal) -> tuple[bool, int]:
        return not isinstance(one.reason, WrongDtype), one.depth

    return [max(reversed(refused), key=weight)]  # of equals, the shortest rule


def refusal_at(
    candidate: Template, node: fx.Node, reason: str, depth: int, complete: bool = False
) -> Refusal | None:
    """A refusal at a node; None for one too far from a match to tell anything."""
    if not complete and depth < told_from(candidate):
        return None
    return Refusal(candidate.rule.name, node, reason, depth, complete)


@functools.lru_cache(maxsize=4096)
def told_from(candidate: Template) -> int:
    """How many steps must be there for a stop to be told.

    Rules over NPU operators tell every stop behind their anchor; a spelling in aten starts at
    operators as common as `mul`, so half of it must be there.
    """
    anchor = candidate.steps[candidate.anchor].target
    return 1 if anchor.namespace == "npu" else max(2, len(candidate.steps) // 2)
