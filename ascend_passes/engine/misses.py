"""Which refusals a report tells."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import fx

from ascend_passes.engine.bind import WrongDtype
from ascend_passes.engine.template_value import Template
from ascend_passes.ir.graph import place
from ascend_passes.report.value import Miss


def worth_telling(refused: Sequence[Miss]) -> list[Miss]:
    """Of the misses at one node, the widest spelling's first: those of whole matches, for each rule
    the one that came furthest, else the one of all that did; those of templates for another dtype
    come last."""
    whole: dict[str, Miss] = {}
    for miss in refused:
        if miss.complete and (miss.rule not in whole or miss.depth > whole[miss.rule].depth):
            whole[miss.rule] = miss
    if whole or not refused:
        return list(whole.values())

    def weight(miss: Miss) -> tuple[bool, int]:
        return not isinstance(miss.reason, WrongDtype), miss.depth

    return [max(reversed(refused), key=weight)]  # of equals, the shortest rule


def miss(
    candidate: Template, node: fx.Node, reason: str, depth: int, complete: bool = False
) -> Miss | None:
    """A refusal at a node, in terms of the model; None for one too far from a match to tell
    anything."""
    if not complete and depth < told_from(candidate):
        return None
    return Miss(candidate.rule.name, node.name, place(node), reason, depth, complete)


@functools.lru_cache(maxsize=4096)
def told_from(candidate: Template) -> int:
    """How many steps must be there for a stop to be told.

    Rules over NPU operators tell every stop behind their anchor; a spelling in aten starts at
    operators as common as `mul`, so half of it must be there.
    """
    anchor = candidate.steps[candidate.anchor].target
    return 1 if anchor.namespace == "npu" else max(2, len(candidate.steps) // 2)
