"""Which captured size takes a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ascend_passes.capture.layout import Layout
from ascend_passes.options.plans import capture_sizes
from ascend_passes.options.value import Options


@dataclass(frozen=True)
class Choice:
    """Rows of the graph that takes a call, or why none does."""

    rows: int = 0
    """First dimension of the token ids in the graph; 0 where the call runs uncaptured."""
    reason: str = ""
    """Why it runs uncaptured; empty where the mode asks for that."""


def chosen_size(layout: Layout, options: Options, inputs: Sequence[Any], pad: bool) -> Choice:
    """The smallest captured size that holds the call.

    Args:
        layout: the graph's inputs.
        options: mode, sizes and limit.
        inputs: the call's flat inputs.
        pad: whether the caller vouches for added rows.
    """
    if layout.tokens is None:
        return Choice(reason="no input looks like token ids")
    ids = inputs[layout.tokens]
    rows, query = int(ids.shape[0]), int(ids.shape[1]) if ids.dim() > 1 else 1
    if rows * query == 0:
        return Choice(reason="a call without tokens has nothing to replay")
    if options.cudagraph_mode == "FULL_DECODE_ONLY":
        if ids.dim() == 1:
            return Choice(
                reason="token ids without a sequence dimension do not tell a decode step "
                "from a prefill; cudagraph_mode FULL captures both"
            )
        if query != 1:
            return Choice()
    tokens = rows * query
    sizes = [size for size in capture_sizes(options) if size >= tokens and size % query == 0]
    if not sizes:
        return Choice(reason=f"{tokens} tokens are above every capture size")
    if sizes[0] == tokens:
        return Choice(rows)
    if pad and layout.paddable():
        return Choice(sizes[0] // query)
    return Choice(
        reason=f"{tokens} tokens are not a capture size and the graph cannot be padded in "
        f"place: give it {sizes[0]}, as decode_loop does, or add {tokens} to capture_sizes"
    )
