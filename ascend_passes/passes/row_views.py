"""Views move behind operators that work on rows, so that these stand beside what made the rows.

Models flatten their tokens in front of a linear layer, and layers of int8 rows quantize what they
flattened: `quantize(view(norm(x)))` is `view(quantize(norm(x)))`, whose first two operators fuse.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ascend_passes import npu
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.graph import Context, first, is_call, same_size, value
from ascend_passes.report.value import Report

aten = torch.ops.aten


def row_views(graph: fx.Graph, context: Context) -> Report:
    """Move views behind calls that work on each row of what an operator of the NPU gives, in
    place."""
    moved = 0
    for node in list(graph.nodes):
        view = flattened_rows(node)
        if view is not None:
            moved += move_behind(Site(node, context.options.soc, "row_views"), view)
    remove_dead(graph)
    return Report(fired={"row_views": moved} if moved else {})


def flattened_rows(node: fx.Node) -> fx.Node | None:
    """The view that a call of an operator on rows takes, of rows that the NPU made."""
    operator_entry = npu.operator_of(node.target) if node.op == "call_function" else None
    if operator_entry is None or len(operator_entry.rows) != 1:
        return None
    given = named_arguments(node)
    on_rows = all(
        given.get(name, allowed[0]) in allowed for name, allowed in operator_entry.rows_if.items()
    )
    last = all(given.get(name, -1) == -1 for name in operator_entry.columns)
    view = given.get(operator_entry.rows[0])
    if not isinstance(view, fx.Node) or not is_call(view, aten.view.default):
        return None
    if not on_rows or not last:
        return None
    source = first(view)
    maker = first(source) if is_call(source, operator.getitem) else source
    whole = value(source).is_contiguous() and value(source).dim() > 1
    alike = same_size(value(source).shape[-1], value(view).shape[-1])
    return view if whole and alike and npu.operator_of(maker.target) is not None else None


def move_behind(site: Site, view: fx.Node) -> int:
    """Exchange a call on a view by views of the call's results; 0 where that breaks a limit."""
    node, name = site.node, npu.operator_of(site.node.target).name  # type: ignore[union-attr]
    rows = npu.OPERATORS[name].rows[0]
    try:
        made = site.npu(name, **{**named_arguments(node), rows: first(view)})
    except Refused:
        return 0
    shape: list[Any] = list(view.args[1])  # type: ignore[arg-type]
    if not isinstance(value(node), (tuple, list)):
        whole = [*shape[:-1], width(site, made)]
        node.replace_all_uses_with(site.view_as(made, whole, node))
        return 1
    for part in list(node.users):
        index: Any = part.args[1]
        result = site.item(made, index)
        kept = shape[: value(part).dim()]
        if len(kept) == len(shape):
            kept[-1] = width(site, result)
        part.replace_all_uses_with(site.view_as(result, kept, part))
    return 1


def width(site: Site, rows: fx.Node) -> int | fx.Node:
    """The last size of what an operator gives, whose rows may be half as wide as what it took."""
    size = value(rows).shape[-1]
    return size if isinstance(size, int) else site.call(aten.sym_size.int, rows, -1)
