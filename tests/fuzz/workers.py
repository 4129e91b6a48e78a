"""Programs in processes of their own: a crash or a hang costs one program, and is told."""

from __future__ import annotations

import gc
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._dynamo.guards

from tests.fuzz.check import RIGHT, Verdict, check
from tests.fuzz.generate import generate

PATIENCE = 300.0
"""Seconds for one program; a process that needs more is ended."""
PROGRAMS_OF_A_PROCESS = 500
"""Then a fresh one goes on, so that nothing that torch keeps adds up."""
NEW_OBJECTS = 100_000
"""So many before Python looks for cycles among them; a compile makes many that live on."""
EXACT_SHARE = 3
"""One in so many programs has its formula checked in float64."""


@dataclass
class Tally:
    """What a run found."""

    kinds: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    told: list[tuple[int, Verdict]] = field(default_factory=list)
    log: Path | None = None
    """A file with a line for each program, so that runs add up."""
    seeds: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, log: Path | None) -> Tally:
        """What the runs before this one have logged."""
        tally = cls()
        for line in log.read_text().splitlines() if log is not None and log.exists() else ():
            seed, *answer = json.loads(line)
            tally.add(seed, *verdict_of(answer))
        tally.log = log
        return tally

    def add(self, seed: int, verdict: Verdict, operators: Sequence[str]) -> None:
        """One program more."""
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps([seed, *answer_of(verdict, operators)]) + "\n")
        self.seeds.add(seed)
        self.kinds[verdict.kind] += 1
        self.fired.update(verdict.fired)
        self.operators.update(operators)
        if verdict.kind != RIGHT:
            self.told.append((seed, verdict))


def answer_of(verdict: Verdict, operators: Sequence[str]) -> list[Any]:
    """A verdict and the program's operators as JSON."""
    fired = dict(verdict.fired)
    return [verdict.kind, verdict.lines, sorted(verdict.keys), fired, list(operators)]


def verdict_of(answer: Sequence[Any]) -> tuple[Verdict, Sequence[str]]:
    """What `answer_of` was made of."""
    kind, lines, keys, fired, operators = answer
    return Verdict(kind, tuple(lines), frozenset(map(tuple, keys)), fired), operators


def judged(seed: int, more: Mapping[str, Any]) -> tuple[Verdict, list[str]]:
    """The verdict on a seed's program, and its operators."""
    program = generate(seed)
    verdict = check(program, formulas=seed % EXACT_SHARE == 0, more=more)
    return verdict, [step.operator for step in program.steps]


def hurry() -> None:
    """Leave out what takes a process of compiles its time and changes no result."""
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 20)
    # Dynamo flushes the processor's cache after each compile to time the guards, for its log.
    torch._dynamo.guards.profile_guard_manager = lambda *_: 0.0  # type: ignore[assignment]


def work() -> None:
    """A worker: seeds come in by line, verdicts go out by line."""
    hurry()
    for line in sys.stdin:
        seed, more = json.loads(line)
        print("verdict " + json.dumps(answer_of(*judged(seed, more))), flush=True)


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
    seeds: Iterator[int],
    jobs: int,
    more: Mapping[str, Any],
    tell: Callable[[Tally], None],
    tally: Tally,
) -> Tally:
    """Judge the seeds in so many processes; `tell` hears of the tally now and then."""
    selector = selectors.DefaultSelector()
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
                tally.add(worker.seed, *verdict_of(json.loads(line[8:])))
                worker.done += 1
                next_seed(worker)
        for worker in list(workers):
            if time.monotonic() - worker.since > PATIENCE:
                lost(worker, f"no end after {PATIENCE:.0f} s")
        tell(tally)
    return tally
