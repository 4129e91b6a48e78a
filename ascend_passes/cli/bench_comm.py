"""Counts what FlashComm changes in one Qwen3-32B-W8A8 layer: collectives, bytes, rows, time.

The counts are read from the graphs before and after the passes, at the model's real sizes; no
weights are loaded and nothing is run. Times are the cost model's.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass

from rich.table import Table
from torch import fx

from ascend_passes.cli.dense_layers import GROUP, Sizes, after_passes, layers_graph
from ascend_passes.cli.output import console, print_table
from ascend_passes.cost import model as cost
from ascend_passes.cost import profiles
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.ir.graph import operator_name, value
from ascend_passes.options.types import shown
from ascend_passes.options.value import Options

EXAMPLES = (
    "ascend-passes bench comm",
    "ascend-passes bench comm --ranks 8 --profile h100",
)
TOKENS = (1, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
PLANS = (
    # Name, FlashComm, matmuls fused with collectives.
    ("all_reduce", False, False),
    ("all_reduce, fused", False, True),
    ("flashcomm", True, False),
    ("flashcomm, fused", True, True),
)
FEW, MORE = 2, 3
"""A layer is what the third adds to two: the first and the last layer are not like the others."""


@dataclass(frozen=True)
class Layer:
    """One layer of one plan at one number of tokens."""

    collectives: dict[str, int]
    sent_bytes: float
    rows: float
    """Rows that go through a norm."""
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--ranks", type=tensor_parallel, default=4, help="tensor-parallel size")
    parser.add_argument("--profile", default=Options().profile, help="name, or a file of `tune`")


def tensor_parallel(text: str) -> int:
    """A number of ranks that the model's heads divide by."""
    valid = [n for n in range(2, Sizes().heads + 1) if Sizes().heads % n == 0]
    if text not in map(str, valid):
        raise argparse.ArgumentTypeError(f"{shown(text)} is none of {', '.join(map(str, valid))}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each number of tokens and plan, and where FlashComm begins to pay."""
    profile = profiles.read_profile(arguments.profile)
    plans = plan_graphs(arguments.profile, arguments.ranks)
    table = Table("tokens", "plan", "collectives", "MiB sent", "rows normalised", "estimated ms")
    crossings = []
    with assuming(Group(GROUP, arguments.ranks, 0)):
        for tokens in TOKENS:
            for name, graphs in plans.items():
                table.add_row(str(tokens), name, *cells(layer(*graphs, profile, tokens)))
        before = functools.partial(layer_seconds, *plans["all_reduce"], profile)
        for name in list(plans)[1:]:
            after = functools.partial(layer_seconds, *plans[name], profile)
            crossings.append((name, cost.crossing(before, after)))
    out = console()
    out.print(f"one layer of Qwen3-32B-W8A8, tp {arguments.ranks}, {profile.name}")
    print_table(out, table)
    for name, tokens_found in crossings:
        pays = "never pays" if tokens_found is None else f"pays from {tokens_found} tokens on"
        out.print(f"{name}: {pays}, by the estimate")
    return 0


def plan_graphs(profile: str, ranks: int) -> dict[str, tuple[fx.Graph, fx.Graph]]:
    """Plan -> the graphs of `FEW` and of `MORE` layers under it."""
    graphs = [layers_graph(Sizes(), count, ranks) for count in (FEW, MORE)]
    plans = {}
    for name, flashcomm, fused in PLANS:
        options = Options(profile=profile, matmul_reduce_scatter=fused, matmul_all_reduce=fused)
        few, more = (after_passes(graph, options, ranks, flashcomm) for graph in graphs)
        plans[name] = (few, more)
    return plans


def cells(found: Layer) -> tuple[str, ...]:
    """A layer's figures as a table's texts."""
    counted = ", ".join(f"{count} {kind}" for kind, count in found.collectives.items())
    sent, seconds = f"{found.sent_bytes / 2**20:.3f}", f"{found.seconds * 1e3:.3f}"
    return counted, sent, f"{found.rows:.0f}", seconds


def layer_seconds(few: fx.Graph, more: fx.Graph, profile: profiles.Profile, tokens: int) -> float:
    """The estimated seconds of one layer."""
    return layer(few, more, profile, tokens).seconds


def layer(few: fx.Graph, more: fx.Graph, profile: profiles.Profile, tokens: int) -> Layer:
    """What one layer adds to a graph."""
    less, whole = (cost.estimate(graph, profile, tokens) for graph in (few, more))
    fewer = less.collectives()
    kinds = whole.collectives()
    return Layer(
        {kind: n - fewer.get(kind, 0) for kind, n in kinds.items() if n > fewer.get(kind, 0)},
        whole.wire_bytes - less.wire_bytes,
        normalised_rows(more, tokens) - normalised_rows(few, tokens),
        whole.seconds - less.seconds,
    )


def normalised_rows(graph: fx.Graph, tokens: int) -> float:
    """Rows that go through the norms of a graph."""
    numeric = cost.numbers(graph, tokens)
    norms = [node for node in graph.nodes if "rms_norm" in operator_name(node)]
    return sum(numeric(value(node.args[0]).shape[0]) for node in norms)
