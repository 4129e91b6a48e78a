"""Worker processes that stay alive for a session, each a rank of one gloo group."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import vllm_operators

SECONDS = 100
"""How long one case may take on all ranks."""
SECONDS_AFTER_FAILURE = 5
"""How long the other ranks have once one has failed."""


class Ranks:
    """`run` calls a module-level function on every rank and gives the results in rank order.

    After a failure the processes are started anew: a rank that raised has left the others waiting.
    """

    def __init__(self, world: int) -> None:
        self.world = world
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []

    def start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        port = free_port()
        for rank in range(self.world):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(
                target=serve, args=(rank, self.world, port, theirs), daemon=True
            )
            process.start()
            self.processes.append(process)
            self.pipes.append(ours)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        if not self.processes:
            self.start()
        for pipe in self.pipes:
            pipe.send((function, arguments))
        answers: dict[int, Any] = {}
        failed: list[str] = []
        patience = SECONDS
        while len(answers) < self.world:
            ready = wait([p for r, p in enumerate(self.pipes) if r not in answers], patience)
            if not ready:
                break
            for pipe in ready:
                good, answer = pipe.recv()  # type: ignore[union-attr]
                answers[self.pipes.index(pipe)] = answer  # type: ignore[arg-type]
                if not good:
                    failed.append(answer)
                    patience = SECONDS_AFTER_FAILURE
        if failed or len(answers) < self.world:
            self.close()
            silent = sorted(set(range(self.world)) - set(answers))
            raise AssertionError("\n".join([f"ranks without an answer: {silent}", *failed]))
        return [answers[rank] for rank in range(self.world)]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.processes, self.pipes = [], []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(rank: int, world: int, port: int, pipe: Connection) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ.update(address | place | {"TQDM_DISABLE": "1"})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    vllm_operators.install()
    torch._dynamo.config.recompile_limit = 1000
    torch._dynamo.config.accumulated_recompile_limit = 1000
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((True, function(*arguments)))
        except Exception:
            pipe.send((False, f"rank {rank}: {traceback.format_exc()}"))
