"""What runs on every rank: compile with FlashComm, compare with the unrewritten model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from stacks import VOCABULARY, Kind, Stack
from torch import Tensor

import ascend_passes
from ascend_passes.compile import variant as pipeline_compiled
from ascend_passes.cost import model as cost
from ascend_passes.cost import profiles

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from wire import wire, written

FORCED = "-sequence_parallel.cost"
"""Rewrites whatever the cost model says: these graphs are far too small to gain."""


ESTIMATES: list[cost.Estimate] = []
"""The estimate of each graph, in the order of compilation."""


@dataclass(frozen=True)
class Outcome:
    """One case on one rank."""

    error: float
    """Root mean square of the difference over that of the expected values, the worst call's."""
    same_tokens: bool
    fired: int
    fused: int
    misses: tuple[str, ...]
    counts: dict[str, int]
    sent: float
    written: int
    """Bytes that this process really wrote, to its sockets, during one call."""
    notes: tuple[str, ...]
    estimated: float
    """Bytes each rank sends by the cost model's count over the rewritten graph."""
    by_gloo: float
    """Those by gloo's algorithms, which reduce and scatter as an all_reduce does."""
    decision: str
    chosen: str


def compiled(model: Any, options: dict[str, Any], dynamic: bool | None) -> Any:
    torch._dynamo.reset()
    ascend_passes.reset()
    ESTIMATES.clear()
    chosen = {"flashcomm": True, "flashcomm_tokens": 0, "matmul_reduce_scatter_tokens": 0}
    return torch.compile(
        model, backend=ascend_passes.ascend_dense, options=chosen | options, dynamic=dynamic
    )


def stack(
    kind: Kind,
    seed: int,
    shapes: list[tuple[int, ...]],
    dynamic: bool,
    options: dict[str, Any],
    poisoned: bool = False,
) -> Outcome:
    """A hand-made stack over several token counts; `poisoned` puts no zeros into padded rows."""
    torch.manual_seed(seed + dist.get_rank())
    ranks = dist.get_world_size()
    model = Stack(kind, 2, dist.group.WORLD.group_name, ranks)
    every = [shared_states(shape, kind) if kind.later else shared_ids(shape) for shape in shapes]
    real = pipeline_compiled.execute
    if poisoned:
        pipeline_compiled.execute = lambda gm, *others: real(with_poison(gm), *others)
    try:
        return compare(model, compiled(model, options, dynamic), every)
    finally:
        pipeline_compiled.execute = real


def with_poison(gm: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Whatever is padded gets NaN in its new rows, integers another number than zero."""
    pads = gm.graph.find_nodes(op="call_function", target=torch.ops.aten.constant_pad_nd.default)
    assert pads
    for node in pads:
        floating = node.meta["val"].dtype.is_floating_point
        node.args = (*node.args[:2], float("nan") if floating else 77)
    gm.recompile()
    return gm


def watched(graph: Any, *others: Any) -> None:
    """Count a rewritten graph's bytes before it runs."""
    estimate = cost.estimate(graph, profiles.ATLAS_800_A2)
    ESTIMATES.append(estimate)
    AGREE(graph, *others)


AGREE = pipeline_compiled.require_agreement
pipeline_compiled.require_agreement = watched


def shared_ids(shape: tuple[int, ...]) -> Tensor:
    ids = torch.randint(0, VOCABULARY, shape)
    dist.broadcast(ids, 0)
    return ids


def captured(
    options: dict[str, Any], counts: tuple[int, ...], decode: bool
) -> tuple[list[int], dict[int, bool]]:
    """The token counts that were captured, and whether each call gave the model's own result.

    `decode` gives the ids the sequence dimension of a decode step, `[T, 1]`.
    """
    torch.manual_seed(dist.get_rank())
    model = Stack(Kind(torch.bfloat16), 2, dist.group.WORLD.group_name, dist.get_world_size())
    runners: list[Any] = []
    real = pipeline_compiled.wrap

    def watched_wrap(*arguments: Any, **named: Any) -> Any:
        runners.append(real(*arguments, **named))
        return runners[-1]

    pipeline_compiled.wrap = watched_wrap
    right = {}
    sizes = []
    try:
        rewritten = compiled(model, {"passes": FORCED, "rules": "-*"} | options, dynamic=True)
        with torch.no_grad():
            for count in counts:
                ids = shared_ids((count, 1) if decode else (count,))
                before = sum(runner.counters.replays for runner in runners)
                found = [rewritten(ids)[0] for _ in range(3)]
                right[count] = all(torch.equal(one, model(ids)[0]) for one in found)
                if sum(runner.counters.replays for runner in runners) > before:
                    sizes.append(count)
    finally:
        pipeline_compiled.wrap = real
    return sizes, right


def shared_states(shape: tuple[int, ...], kind: Kind) -> Tensor:
    states = torch.randn(*shape, kind.hidden).to(kind.dtype)
    dist.broadcast(states, 0)
    return states


def compare(model: Any, rewritten: Any, every: list[Tensor]) -> Outcome:
    worst, same = 0.0, True
    with torch.no_grad():
        for ids in every:
            expected, found = model(ids), rewritten(ids)
            for one, other in zip(expected, found, strict=True):
                assert one.shape == other.shape and one.dtype == other.dtype
                worst = max(worst, relative(other, one))
            same &= bool((expected[0].argmax(-1) == found[0].argmax(-1)).all())
        seen = wire(lambda: rewritten(every[-1]), dist.get_world_size())
        dist.barrier()
        sent = written(lambda: rewritten(every[-1]))
    reports = ascend_passes.reports()
    assert not any(report.errors for report in reports), [r.errors for r in reports]
    last = reports[-1]
    misses = tuple(miss.reason for r in reports for miss in r.misses if "collective" in miss.rule)
    fired = last.fired.get("sequence_parallel", 0)
    fused = last.fired.get("matmul_collective", 0)
    decisions = [d for d in last.decisions if d.subject == "sequence_parallel"]
    return Outcome(
        worst,
        same,
        fired,
        fused,
        misses,
        seen.counts,
        seen.sent,
        sent,
        last.notes,
        ESTIMATES[-1].wire_bytes,
        by_gloo(ESTIMATES[-1]),
        decisions[0].reason if decisions else "",
        decisions[0].chosen if decisions else "",
    )


def by_gloo(estimate: cost.Estimate) -> float:
    """Bytes that a rank sends where each reduce_scatter is made of an all_reduce."""
    return sum(
        one.wire_bytes * (2 if one.collective == "reduce_scatter" else 1)
        for one in estimate.operators
    )


def relative(found: Tensor, expected: Tensor) -> float:
    wide = expected.double()
    return float(((found.double() - wide).pow(2).mean() / wide.pow(2).mean()).sqrt())
