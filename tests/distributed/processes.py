"""Short-lived ranks for what breaks them: each case has processes and a group of its own."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks import free_port

LIMIT = 75.0
"""Seconds for a case on a busy machine; far below `exchange.PATIENCE`."""
GROUP_TIMEOUT = timedelta(seconds=300)
"""Nothing may run into it either."""
BACKEND = os.environ.get("RANKS_BACKEND", "gloo")
DEVICE = "cuda" if BACKEND == "nccl" else "cpu"
WAITS, DIED = "waits", "died"


@dataclass(frozen=True)
class End:
    """How a rank ended."""

    told: Any
    """What it returned, or the text of what it raised, or that it `waits` or `died`."""
    seconds: float
    """Since all ranks had their group."""
    heard: float
    """When it met the fault, by a clock of the machine: when it ended, where it did not say."""


_heard: list[float] = []


def mark() -> None:
    """This rank has met the fault, and goes on."""
    _heard.append(time.monotonic())


def run(function: Callable[..., Any], world: int, *arguments: Any) -> list[End]:
    """`function(rank, *arguments)` on new ranks.

    A rank that returns lives on until all have ended; one that raises ends its process.
    """
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    context.set_forkserver_preload(["warm"])
    port = free_port()
    ends: dict[int, End] = {}
    processes, pipes = [], {}
    for rank in range(world):
        ours, theirs = context.Pipe(duplex=False)
        target = (function, rank, world, port, arguments, theirs)
        process = context.Process(target=serve, args=target, daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes[ours] = rank
    until = time.monotonic() + LIMIT
    while pipes and (ready := wait(list(pipes), max(0.0, until - time.monotonic()))):
        for pipe in ready:
            ends[pipes.pop(pipe)] = received(pipe)  # type: ignore[arg-type]
    for process in processes:
        process.kill()
        process.join()
    return [ends.get(rank, End(WAITS, LIMIT, until)) for rank in range(world)]


def received(pipe: Connection) -> End:
    try:
        return End(*pipe.recv())
    except EOFError:
        return End(DIED, 0.0, time.monotonic())


def ended(told: Any, start: float) -> tuple[Any, float, float]:
    """The fields of an `End`."""
    now = time.monotonic()
    return told, now - start, next(iter(_heard), now)


def serve(
    function: Callable[..., Any],
    rank: int,
    world: int,
    port: int,
    arguments: tuple[Any, ...],
    pipe: Connection,
) -> None:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ.update(place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    torch.set_num_threads(1)
    if BACKEND == "nccl":
        torch.cuda.set_device(rank)
    torch.set_default_device(DEVICE)
    dist.init_process_group(BACKEND, rank=rank, world_size=world, timeout=GROUP_TIMEOUT)
    dist.barrier()
    faulthandler.dump_traceback_later(LIMIT - 5)  # where a rank that waits is
    start = time.monotonic()
    try:
        pipe.send(ended(function(rank, *arguments), start))
    except BaseException as error:
        pipe.send(ended(f"{type(error).__name__}: {error}", start))
        os._exit(1)
    faulthandler.cancel_dump_traceback_later()
    time.sleep(LIMIT)
