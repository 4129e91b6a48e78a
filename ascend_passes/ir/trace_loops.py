"""Inductor with loops for some operators alone; the others stay calls of eager's kernels.

One of the files with private torch imports; it is imported when a graph is compiled so.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch._inductor import lowering
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.decomposition import select_decomp_table
from torch._library.utils import get_layout_constraint_tag


class EagerCalls(CustomGraphPass):
    """Leaves what may not be a loop to eager's kernels."""

    def __init__(self, may_be_loop: Callable[[fx.Node], bool], name: str) -> None:
        self.may_be_loop, self.name = may_be_loop, name

    def __call__(self, graph: fx.Graph) -> None:
        """Mark the nodes."""
        for node in graph.nodes:
            if isinstance(node.target, torch._ops.OpOverload):
                allow_call(node.target)
                if not self.may_be_loop(node):
                    node.meta["should_fallback"] = True

    def uuid(self) -> str:
        """Part of the name under which Inductor stores its code."""
        return self.name


def allow_call(operator: torch._ops.OpOverload) -> None:
    """Let Inductor call an operator that it has no lowering for and could take apart.

    Left to itself it refuses: torch 2.10 always, later ones where the variable CI is set.
    """
    if operator not in lowering.lowerings:
        tag = get_layout_constraint_tag(operator, with_default=True)
        constraint = lowering.tag_to_layout_constraint(tag)
        lowering.make_fallback(operator, constraint, warn=False, override_decomp=True)


def loops_alone(
    may_be_loop: Callable[[fx.Node], bool], name: str, symbolic: bool
) -> dict[str, Any]:
    """Settings of Inductor under which only such nodes become loops.

    Its rewrites that are right for real numbers, such as `x` for `x + 0`, are off. What calls loops
    and kernels is C++ as well, since there are more of both than where Inductor fuses sums; built
    apart from the loops, for which a compiler has to try less, it takes half the time of one with
    many layers. Where sizes are symbolic it is Python: from its C++, kernels of torch 2.13 return
    no elements there.

    Args:
        may_be_loop: asked of each node.
        name: another one where `may_be_loop` answers otherwise.
        symbolic: whether sizes are.
    """
    return {
        "post_grad_custom_post_pass": EagerCalls(may_be_loop, name),
        "joint_graph_constant_folding": False,
        "pattern_matcher": False,
        "size_asserts": False,
        "cpp_wrapper": not symbolic,
        "cpp_wrapper_build_separate": True,
    }


@contextlib.contextmanager
def no_word_of_calls() -> Iterator[None]:
    """Inductor warns of each eager kernel that its C++ calls through Python; here that is meant."""

    def other(record: logging.LogRecord) -> bool:
        return "c-shim" not in str(record.msg)

    logger = logging.getLogger("torch._inductor.ir")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def decompositions(
    wanted: Callable[[torch._ops.OpOverload], bool], ours: Mapping[Any, Callable[..., Any]]
) -> dict[Any, Callable[..., Any]]:
    """Those of Inductor's own that are wanted, and ours."""
    table = select_decomp_table()
    operators = [one for one in table if isinstance(one, torch._ops.OpOverload)]
    return {**{one: table[one] for one in operators if wanted(one)}, **ours}
