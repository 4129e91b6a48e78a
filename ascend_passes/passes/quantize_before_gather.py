"""Rows that vllm-ascend's FlashComm gathers are quantized before they are gathered.

Its layers gather the rows of a norm, and the projection behind quantizes them: what it gives each
row is the same on one rank's rows, and there it fuses with the norm, and int8 rows move. A row's
own scale is gathered as well.
"""

from __future__ import annotations

import operator

from torch import fx

from ascend_passes import npu
from ascend_passes.engine.normalize import remove_dead
from ascend_passes.engine.site import Refused, Site
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.edit import Editor
from ascend_passes.ir.graph import Context, first, is_call, operator_name, value
from ascend_passes.report.value import Report

GATHER = "vllm::maybe_all_gather_and_maybe_unpad"
"""Gathers rows over ranks and cuts what pads them, where FlashComm acts on a step; else nothing."""


def quantize_before_gather(graph: fx.Graph, context: Context) -> Report:
    """Exchange each gather and the quantizes that alone read it, in place."""
    moved = 0
    for gather in list(graph.nodes):
        if operator_name(gather) != GATHER or not all(map(is_quantize, gather.users)):
            continue
        for node in list(gather.users):
            moved += quantize_first(
                Site(node, context.options.soc, "quantize_before_gather"), gather
            )
    remove_dead(graph)
    return Report(fired={"quantize_before_gather": moved} if moved else {})


def is_quantize(node: fx.Node) -> bool:
    """Whether a call quantizes each row by itself, along its last dimension."""
    entry = npu.operator_of(node.target) if node.op == "call_function" else None
    if entry is None or entry.identity != "sink_quantize" or len(entry.rows) != 1:
        return False
    given = named_arguments(node)
    by_row = all(given.get(name, allowed[0]) in allowed for name, allowed in entry.rows_if.items())
    last = value(first(node)).dim() - 1
    return by_row and all(given.get(name, -1) in (-1, last) for name in entry.columns)


def quantize_first(site: Site, gather: fx.Node) -> int:
    """Quantize what a gather takes and gather what that gives; 0 where that breaks a limit."""
    node = site.node
    name = npu.operator_of(node.target).name  # type: ignore[union-attr]
    rows = npu.OPERATORS[name].rows[0]
    try:
        made = site.npu(name, **{**named_arguments(node), rows: first(gather)})
    except Refused:
        return 0
    if not isinstance(value(node), (tuple, list)):
        node.replace_all_uses_with(gathered_result(site, made, gather, node))
        return 1
    for part in [user for user in node.users if is_call(user, operator.getitem)]:
        result = site.item(made, part.args[1])  # type: ignore[arg-type]
        part.replace_all_uses_with(gathered_result(site, result, gather, part))
    return 1


def gathered_result(site: Site, rows: fx.Node, gather: fx.Node, like: fx.Node) -> fx.Node:
    """What `like` gives, from this rank's part of it: its shape is known, and the gather's own
    shape rule asks for a step that is running."""
    with Editor(rows.graph, site.rule).at(site.node) as edit:
        return edit.known(value(like), gather.target, rows, *gather.args[1:], **gather.kwargs)
