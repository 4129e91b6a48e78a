"""Measures a device's figures for the cost model: rates, bandwidth, launches, collectives."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from ascend_passes.capture import device_for
from ascend_passes.cost.profiles import Points, Profile
from ascend_passes.ir.traits import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER

REPEATS = 10
SHORT_REPEATS = 100
"""Of calls of microseconds: what ranks wait for each other at the start is spread over them."""
SAMPLES = 5
MATMUL_SIDE = {"cuda": 4096, "npu": 4096, "cpu": 512}
STREAM_BYTES = {"cuda": 2**29, "npu": 2**29, "cpu": 2**25}
COLLECTIVE_BYTES = {"cuda": 2**27, "npu": 2**27, "cpu": 2**22}
"""Sizes at which the rate of each kind of device is reached without taking long."""
SHARES = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1)
"""Of those sizes, for collectives: messages of steps are where the rate is not reached."""
SMALL = 1024
"""Elements of a tensor whose work is nothing beside its launch."""


def measured_profile(device: str, name: str, captured: bool = False) -> Profile:
    """The figures of this machine; collectives are measured where a process group is running.

    Args:
        device: cuda, npu or cpu; all work runs on its current device.
        name: the name that the profile gets.
        captured: take launches and latencies from replays of device graphs, for steps that are
            replayed as well; else from calls, where the host can be what is slow.
    """
    matmul_rates = {}
    for dtype in (torch.int8, torch.bfloat16, torch.float16, torch.float32):
        rate = matmul_rate(device, dtype)
        if rate is not None:
            matmul_rates[str(dtype).removeprefix("torch.")] = rate
    latency, hop, bandwidth = collective_figures(device, captured)
    times = collective_times(device, captured)
    calls = "replayed device graphs" if captured else "calls"
    return Profile(
        name=name,
        source=f"measured with torch {torch.__version__} on {device_name(device)}, {calls}",
        matmul_rates=matmul_rates,
        memory_bandwidth=memory_bandwidth(device),
        link_bandwidth=bandwidth,
        matmul_launch=launch_seconds(device, True, captured),
        vector_launch=launch_seconds(device, False, captured),
        collective_latency=latency,
        hop_latency=hop,
        collective_times=times,
    )


def device_name(device: str) -> str:
    """The device as its driver names it."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def median_seconds(
    function: Callable[[], object], device: str, repeats: int = REPEATS, captured: bool = False
) -> float:
    """Median seconds of one call, over samples of `repeats` calls in a row."""

    def row() -> None:
        for _ in range(repeats):
            function()

    function()
    run = replayed(row, device) if captured else row
    samples = []
    for _ in range(SAMPLES):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        samples.append((time.perf_counter() - start) / repeats)
    return statistics.median(samples)


def replayed(function: Callable[[], object], device: str) -> Callable[[], None]:
    """Replays a device graph of `function`, whose tensors must outlive it."""
    maker = device_for(device)
    maker.warm_up(function)
    graph, _ = maker.capture(function, [], maker.pool())
    graph.replay()
    return graph.replay


def synchronize(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device != "cpu":
        getattr(torch, device).synchronize()


def matmul_rate(device: str, dtype: torch.dtype) -> float | None:
    """Operations per second of a square matmul; None where the device has none for the type."""
    side = MATMUL_SIDE[device]
    left = torch.ones(side, side, dtype=dtype, device=device)
    right = torch.ones(side, side, dtype=dtype, device=device).t()
    multiply = torch._int_mm if dtype == torch.int8 else torch.mm
    try:
        return 2.0 * side**3 / median_seconds(lambda: multiply(left, right), device, repeats=3)
    except (RuntimeError, NotImplementedError):
        return None


def memory_bandwidth(device: str) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.ones(STREAM_BYTES[device], dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.numel() / median_seconds(lambda: target.copy_(source), device, repeats=3)


def launch_seconds(device: str, matmul: bool, captured: bool = False) -> float:
    """Seconds of a kernel that has next to nothing to do."""
    small = torch.ones(32, SMALL // 32, device=device)
    right = small.t().contiguous()
    function: Callable[[], Tensor] = (lambda: small @ right) if matmul else small.neg
    return median_seconds(function, device, SHORT_REPEATS, captured)


def collective_figures(device: str, captured: bool = False) -> tuple[float, float, float]:
    """(latency in seconds, seconds of a hop, bytes per second sent by a rank).

    A small all_gather is the latency and one hop, a small all_reduce the latency and two; a large
    all_gather tells the rate. One process has nobody to send to: it waits for nobody, and its rate
    is endless.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return 0.0, 0.0, float("inf")
    ranks = dist.get_world_size()
    one = measured_gather_seconds(device, SMALL, SHORT_REPEATS, captured)
    two = reduce_seconds(device, SMALL, SHORT_REPEATS, captured)
    long = measured_gather_seconds(device, COLLECTIVE_BYTES[device], REPEATS, captured)
    latency, hop = latency_and_hop(one, two)
    sent = COLLECTIVE_BYTES[device] * (ranks - 1)
    figures = torch.tensor([latency, hop, sent / max(long - one, 1e-9)], device=device)
    dist.all_reduce(figures)
    latency, hop, bandwidth = (figures / ranks).tolist()
    return latency, hop, bandwidth


def collective_times(device: str, captured: bool = False) -> dict[str, Points]:
    """Kind of collective -> its times by the bytes that a rank sends, the mean over ranks; nothing
    where one process sends nothing.

    A message that takes less time than a smaller one takes as long, by the luck of either.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return {}
    ranks = dist.get_world_size()
    wholes = [ranks * SMALL, *(int(COLLECTIVE_BYTES[device] * share) for share in SHARES)]
    wholes = [whole // (2 * ranks) * 2 * ranks for whole in wholes]
    calls: dict[str, Callable[[int], Callable[[], object]]] = {
        ALL_REDUCE: lambda whole: reducing(device, whole),
        REDUCE_SCATTER: lambda whole: scattering(device, whole),
        ALL_GATHER: lambda whole: gathering(device, whole),
    }
    found: dict[str, Points] = {}
    for kind, call in calls.items():
        dist.barrier()
        every = [median_seconds(call(whole), device, REPEATS, captured) for whole in wholes]
        seconds = torch.tensor(every, device=device)
        dist.all_reduce(seconds)
        steps = 2 if kind == ALL_REDUCE else 1
        sent = [steps * whole * (ranks - 1) / ranks for whole in wholes]
        rising = itertools.accumulate((seconds / ranks).tolist(), max)
        found[kind] = tuple(zip(sent, rising, strict=True))
    return found


def reducing(device: str, whole: int) -> Callable[[], object]:
    """An all_reduce of so many bytes."""
    partial = torch.zeros(whole // 2, dtype=torch.bfloat16, device=device)
    return lambda: dist.all_reduce(partial)


def scattering(device: str, whole: int) -> Callable[[], object]:
    """A reduce_scatter of so many bytes."""
    partial = torch.zeros(whole // 2, dtype=torch.bfloat16, device=device)
    rows = torch.empty(len(partial) // dist.get_world_size(), dtype=torch.bfloat16, device=device)
    return lambda: dist.reduce_scatter_tensor(rows, partial)


def gathering(device: str, whole: int) -> Callable[[], object]:
    """An all_gather of so many bytes."""
    rows = torch.ones(whole // dist.get_world_size(), dtype=torch.int8, device=device)
    every = torch.empty(whole, dtype=torch.int8, device=device)
    return lambda: dist.all_gather_into_tensor(every, rows)


def latency_and_hop(one: float, two: float) -> tuple[float, float]:
    """What collectives of one hop and of two hops say: neither figure is below zero."""
    hop = min(max(two - one, 0.0), one)
    return one - hop, hop


def measured_gather_seconds(device: str, size: int, repeats: int, captured: bool) -> float:
    """Seconds of an all_gather of `size` bytes from each rank."""
    dist.barrier()
    gather = gathering(device, size * dist.get_world_size())
    return median_seconds(gather, device, repeats, captured)


def reduce_seconds(device: str, size: int, repeats: int, captured: bool) -> float:
    """Seconds of an all_reduce of `size` bytes."""
    dist.barrier()
    return median_seconds(reducing(device, size), device, repeats, captured)
