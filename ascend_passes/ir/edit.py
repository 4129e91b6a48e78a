"""The one way to add nodes to a graph: each has its value, its place in the model and its author.

Reports, stack traces and the check of a graph's structure rest on these three.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from ascend_passes.ir.graph import value
from ascend_passes.ir.settle import settle_call
from ascend_passes.ir.trace import fake_mode_of, faking

PLACE = ("stack_trace", "nn_module_stack", "custom")
"""Notes of a node that say where in the model it comes from, and what the user wrote beside it."""
AUTHOR = "ascend_rule"
"""The note that names the rule or the pass behind a node."""


@dataclass
class Editor:
    """Adds nodes to a graph inside `at`; all of them can be erased again."""

    graph: fx.Graph
    author: str = ""
    """The rule or pass; empty where new nodes are another spelling of what was there."""
    made: dict[fx.Node, None] = field(default_factory=dict)
    """What has been added."""
    origin: fx.Node | None = None
    """What new nodes stand for."""

    @contextmanager
    def at(self, origin: fx.Node, before: fx.Node | None = None) -> Iterator[Self]:
        """Nodes that are added inside stand for `origin`, in front of it or of another node.

        Yields the editor itself.
        """
        outer, self.origin = self.origin, origin
        try:
            with self.graph.inserting_before(before if before is not None else origin):
                yield self
        finally:
            self.origin = outer

    def call(self, target: Any, *arguments: Any, **keywords: Any) -> fx.Node:
        """A call, its value computed from the values of what it reads."""
        assert self.origin is not None
        (given, named), own = fx.map_arg((arguments, keywords), value), value(self.origin)
        # The origin's own value where the call takes no tensor.
        known = tree_leaves((given, named, own))
        with faking(fake_mode_of([v for v in known if isinstance(v, Tensor)])):
            fake = target(*given, **named)
        new = self.known(fake, target, *arguments, **keywords)
        settle_call(new)
        return new

    def known(self, fake: Any, target: Any, *arguments: Any, **keywords: Any) -> fx.Node:
        """A call whose value is known, by contract or by the algebra of sizes: no guard is
        needed.

        Raises:
            ValueError: a size is a symbol of the trace where a node has to compute it.
        """
        if any(map(is_symbol, arguments)):
            raise ValueError(f"{target} is given a symbol as a size: {arguments}")
        new = self.graph.call_function(target)
        # Given afterwards: torch walks through what a call is made with, which takes as long as the
        # call itself, to find the symbols that were looked for above.
        new.args = arguments
        if keywords:
            new.kwargs = keywords
        return self.noted(new, fake)

    def same(self, target: Any, *arguments: Any, **keywords: Any) -> fx.Node:
        """A call that gives what `origin` gives: all that was noted of it holds."""
        assert self.origin is not None
        new = self.known(value(self.origin), target, *arguments, **keywords)
        new.meta = {**self.origin.meta, **self.signature()}
        return new

    def item(self, source: fx.Node, index: int) -> fx.Node:
        """One of several results."""
        return self.known(value(source)[index], operator.getitem, source, index)

    def input(self, name: str, fake: Any) -> fx.Node:
        """A new input of the graph."""
        return self.noted(self.graph.placeholder(name), fake)

    def noted(self, new: fx.Node, fake: Any) -> fx.Node:
        """A new node with what belongs to it."""
        assert self.origin is not None
        places = {key: self.origin.meta[key] for key in PLACE if key in self.origin.meta}
        new.meta = {**places, **self.signature(), "val": fake}
        self.made[new] = None
        return new

    def signature(self) -> dict[str, Any]:
        """The note of the author, if there is one."""
        return {AUTHOR: self.author} if self.author else {}

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Give the readers of a value another one, but for the nodes that make it."""
        old.replace_all_uses_with(
            new, delete_user_cb=lambda user: user not in self.made, propagate_meta=False
        )

    def discard(self) -> None:
        """Erase all that was added; the graph is as it was."""
        for node in reversed(self.made):
            self.graph.erase_node(node)
        self.made.clear()


def is_symbol(argument: Any) -> bool:
    """Whether an argument is a symbol of the trace, or a list with one."""
    if isinstance(argument, (list, tuple)):
        return any(isinstance(one, torch.SymInt) for one in argument)
    return isinstance(argument, torch.SymInt)
