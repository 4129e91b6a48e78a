"""Milliseconds of steps that all ranks take together, and device graphs of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from ascend_passes.cli.measure import synchronize

ROUNDS = 5
ROUND_MILLISECONDS = 100.0
"""What the repeats of one step should take together in a round."""
FEWEST, MOST = 2, 10
"""Repeats of a step in a round."""
Step = Callable[[], Any]


def can_capture(device: str) -> bool:
    """Whether a collective can be captured in a device graph here; the same on all ranks."""
    if device == "cpu":
        return False
    ones = torch.ones(8, device=device)
    try:
        captured(lambda: dist.all_reduce(ones))()
        works = 1.0
    except RuntimeError as error:
        print(f"no capture here, calls are timed instead: {error}", flush=True)
        works = 0.0
    flag = torch.tensor([works], device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())


def captured(call: Step) -> Step:
    """A device graph of the call; what it returns replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph.replay


def timed(steps: dict[str, Step], device: str) -> dict[str, list[float]]:
    """Milliseconds of each step, `ROUNDS` rounds in turns; a round is as slow as its slowest
    rank."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    repeats = {name: repeats_for(slowest(step, 1, device)) for name, step in steps.items()}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            samples[name].append(slowest(step, repeats[name], device))
    return samples


def repeats_for(milliseconds: float) -> int:
    """How often a step of this length is repeated in a round."""
    return int(min(MOST, max(FEWEST, ROUND_MILLISECONDS / max(milliseconds, 1e-3))))


def slowest(step: Step, repeats: int, device: str) -> float:
    """Milliseconds of one step on the slowest rank; all ranks start together."""
    dist.barrier()
    elapsed = torch.tensor([milliseconds(step, repeats, device)], device=device)
    dist.all_reduce(elapsed, dist.ReduceOp.MAX)
    return float(elapsed)


def milliseconds(step: Step, repeats: int, device: str) -> float:
    """Of one step, by device events on CUDA."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        return (time.perf_counter() - start) * 1e3 / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    step()
    synchronize(device)
    begin.record()
    for _ in range(repeats):
        step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / repeats


def spread(samples: list[float]) -> dict[str, float]:
    """The median, the least and the most, under the names that a row gives them."""
    return {
        "milliseconds": statistics.median(samples),
        "low": min(samples),
        "high": max(samples),
    }
