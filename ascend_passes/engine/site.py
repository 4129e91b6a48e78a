"""A call that a pass translates into others: where they are built, and why it may stay."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.ir.graph import value
from ascend_passes.ir.trace import fake_mode_of, faking


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """Why a call stays as it is; the text is the miss's reason."""


@dataclass(frozen=True)
class Site:
    """A call to be replaced, and the place where its replacement is built."""

    node: fx.Node
    soc: str
    rule: str = "vllm_operators"
    """The pass that builds it, for the new nodes' origin."""

    def call(self, target: Any, *arguments: Any, **keywords: Any) -> fx.Node:
        """A node in front of the call, with its value and the origin of what it stands for."""
        with self.node.graph.inserting_before(self.node):
            new = self.node.graph.call_function(target, arguments, keywords)
        given = fx.map_arg((arguments, keywords), value)
        known = (*given, value(self.node))  # the call's own value where it takes no tensor
        fakes = [v for v in torch.utils._pytree.tree_leaves(known) if isinstance(v, Tensor)]
        with faking(fake_mode_of(fakes)):
            new.meta["val"] = target(*given[0], **given[1])
        for key in ("stack_trace", "nn_module_stack"):
            if key in self.node.meta:
                new.meta[key] = self.node.meta[key]
        new.meta["ascend_rule"] = self.rule
        return new

    def npu(self, name: str, **arguments: Any) -> fx.Node:
        """`call` of an NPU operator, within its documented limits.

        Raises:
            Refused: the first limit that does not hold.
        """
        fakes = {
            key: value(item) if isinstance(item, fx.Node) else item
            for key, item in arguments.items()
        }
        for holds, reason in npu.legality(name, fakes, self.soc):
            if not holds:
                raise Refused(reason)
        entries = npu.packet(name).default._schema.arguments
        positional = [e.name for e in entries if not e.kwarg_only and e.name in arguments]
        keywords = {
            e.name: arguments[e.name] for e in entries if e.kwarg_only and e.name in arguments
        }
        return self.call(npu.packet(name).default, *(arguments[n] for n in positional), **keywords)

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
