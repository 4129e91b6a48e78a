"""A call that a pass translates into others: where they are built, and why it may stay."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ascend_passes import npu
from ascend_passes.engine.limits import broken_limit
from ascend_passes.ir.arguments import schema_order
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import value


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """Why a call stays as it is; the text is the miss's reason."""


def legal_call(edit: Editor, name: str, soc: str, arguments: Mapping[str, Any]) -> fx.Node:
    """A call of an NPU operator within its documented limits.

    Raises:
        Refused: the first limit that does not hold.
    """
    target = npu.packet(name).default
    broken = broken_limit(name, arguments, soc)
    if broken is not None:
        raise Refused(broken)
    positional, keywords = schema_order(target, arguments)
    return edit.call(target, *positional, **keywords)


@dataclass(frozen=True)
class Site:
    """A call to be replaced, and the place where its replacement is built."""

    node: fx.Node
    soc: str
    rule: str = "vllm_operators"
    """The pass that builds it, for the new nodes' origin."""

    def call(self, target: Any, *arguments: Any, **keywords: Any) -> fx.Node:
        """A node in front of the call, with its value and the origin of what it stands for."""
        with Editor(self.node.graph, self.rule).at(self.node) as edit:
            return edit.call(target, *arguments, **keywords)

    def npu(self, name: str, **arguments: Any) -> fx.Node:
        """`call` of an NPU operator; errors as in `legal_call`."""
        with Editor(self.node.graph, self.rule).at(self.node) as edit:
            return legal_call(edit, name, self.soc, arguments)

    def view_as(self, source: fx.Node, shape: Sequence[Any], like: fx.Node) -> fx.Node:
        """A view of `source` that gives what another node gives."""
        with Editor(self.node.graph, self.rule).at(self.node) as edit:
            return edit.known(value(like), torch.ops.aten.view.default, source, list(shape))

    def item(self, source: fx.Node, index: int) -> fx.Node:
        """One of several results."""
        return self.call(operator.getitem, source, index)


Arguments = Mapping[str, Any]
Translation = Callable[[Site, Arguments], Mapping[str, fx.Node]]
"""Arguments by name -> the nodes of what is written (by argument name) or returned ("0", "1")."""


def refuse_unless(holds: bool, reason: str) -> None:
    """Raise `Refused` with the reason where the condition does not hold."""
    if not holds:
        raise Refused(reason)
