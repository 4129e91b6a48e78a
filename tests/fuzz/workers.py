"""Programs in processes of their own: a crash or a hang costs one program, and is told."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.fuzz.check import RIGHT, Verdict, check
from tests.fuzz.generate import generate

PATIENCE = 300.0
"""Seconds for one program; a process that needs more is ended."""
PROGRAMS_OF_A_PROCESS = 300
"""Then a fresh one goes on, so that nothing that torch keeps adds up."""
EXACT_SHARE = 3
"""One in so many programs has its formula checked in float64."""


@dataclass
class Tally:
    """What a run found."""

    kinds: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    told: list[tuple[int, Verdict]] = field(default_factory=list)

    def add(self, seed: int, verdict: Verdict, operators: Sequence[str]) -> None:
        """One program more."""
        self.kinds[verdict.kind] += 1
        self.fired.update(verdict.fired)
        self.operators.update(operators)
        if verdict.kind != RIGHT:
            self.told.append((seed, verdict))


def judged(seed: int, more: Mapping[str, Any]) -> tuple[Verdict, list[str]]:
    """The verdict on a seed's program, and its operators."""
    program = generate(seed)
    verdict = check(program, formulas=seed % EXACT_SHARE == 0, more=more)
    return verdict, [step.operator for step in program.steps]


def work() -> None:
    """A worker: seeds come in by line, verdicts go out by line."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        seed, more = json.loads(line)
        verdict, operators = judged(seed, more)
        keys = sorted(verdict.keys)
        answer = [verdict.kind, verdict.lines, keys, dict(verdict.fired), operators]
        print("verdict " + json.dumps(answer), flush=True)


class Worker:
    """One process and the seed that it has."""

    def __init__(self) -> None:
        self.seed: int | None = None
        self.since = 0.0
        self.done = 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests.fuzz.workers import work; work()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def take(self, seed: int, more: Mapping[str, Any]) -> None:
        """Give it a seed."""
        assert self.process.stdin is not None
        self.seed, self.since = seed, time.monotonic()
        self.process.stdin.write(json.dumps([seed, dict(more)]) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def spread(
    seeds: Iterator[int], jobs: int, more: Mapping[str, Any], tell: Callable[[Tally], None]
) -> Tally:
    """Judge the seeds in so many processes; `tell` hears of the tally now and then."""
    tally, selector = Tally(), selectors.DefaultSelector()
    workers: set[Worker] = set()

    def next_seed(worker: Worker | None = None) -> None:
        seed = next(seeds, None)
        if worker is not None and (seed is None or worker.done >= PROGRAMS_OF_A_PROCESS):
            drop(worker)
            worker = None
        if seed is None:
            return
        if worker is None:
            worker = Worker()
            workers.add(worker)
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        worker.take(seed, more)

    def drop(worker: Worker) -> None:
        selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        workers.discard(worker)
        worker.end()

    def lost(worker: Worker, how: str) -> None:
        assert worker.seed is not None
        verdict = Verdict("wrong", (how,), frozenset({("process", how)}))
        tally.add(worker.seed, verdict, ())
        drop(worker)
        next_seed()

    for _ in range(jobs):
        next_seed()
    while workers:
        for key, _ in selector.select(timeout=5):
            worker = key.data
            line = worker.process.stdout.readline()
            if not line:
                lost(worker, f"the process ended: {worker.process.wait()}")
            elif line.startswith("verdict "):
                kind, lines, keys, fired, operators = json.loads(line[8:])
                found = Verdict(kind, tuple(lines), frozenset(map(tuple, keys)), fired)
                tally.add(worker.seed, found, operators)
                worker.done += 1
                next_seed(worker)
        for worker in list(workers):
            if time.monotonic() - worker.since > PATIENCE:
                lost(worker, f"no end after {PATIENCE:.0f} s")
        tell(tally)
    return tally
