"""Worker processes: each case has a time limit, and a process that dies or grows is replaced."""

from __future__ import annotations

import json
import queue
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any

from tests.soundness.case import Case
from tests.soundness.judge import OURS, Fault, Verdict

SECONDS = 120
"""Time limit of one case."""
START_SECONDS = 600
"""Time limit of a process's imports and first compilation."""
MEBIBYTES = 3000
"""Memory at which a process is replaced."""
MOST_CASES = 400
"""Cases after which it is replaced in any case."""


class Worker:
    """One process, started when it is first needed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.cases = 0

    def judge(self, case: Case, seed: int) -> Verdict:
        """The verdict of the process, or what it means that there is none."""
        process = self.started()
        process.stdin.write(
            json.dumps({"sweep": case.sweep, "name": case.name, "seed": seed}) + "\n"
        )
        process.stdin.flush()
        backend = "eager"
        while (answer := self.answer(SECONDS)) and "verdict" not in answer:
            backend = answer.get("begins", backend)
        if not answer:
            return self.lost(backend)
        self.cases += 1
        if answer["memory"] > MEBIBYTES * 1024 or self.cases >= MOST_CASES:
            self.stop()
        faults = tuple(Fault(**fault) for fault in answer["verdict"].pop("faults"))
        return Verdict(faults, **answer["verdict"])

    def started(self) -> Any:
        """The process, ready for a case."""
        if self.process is None:
            command = [sys.executable, "-m", "tests.soundness.worker"]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, bufsize=1
            )
            self.cases = 0
            if not self.answer(START_SECONDS):
                self.errors.seek(0)
                raise RuntimeError(f"a worker does not start: {self.errors.read()[-2000:]}")
        return self.process

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next line of the process; empty where it died or said nothing in time."""
        stream: Any = self.process.stdout if self.process else None
        if not select.select([stream], [], [], seconds)[0]:
            return {}
        line = stream.readline()
        return json.loads(line) if line else {}

    def lost(self, backend: str) -> Verdict:
        """A process that died or hangs is a fault where our backend ran."""
        died = self.process is not None and self.process.poll() is not None
        what = "kills the process" if died else f"takes more than {SECONDS} s"
        self.stop()
        if backend == OURS:
            return Verdict((Fault("process", f"{OURS} {what}", "returned"),))
        return Verdict(skipped=f"{backend} {what}")

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None


def verdicts(cases: Sequence[Case], seed: int, jobs: int) -> Iterator[tuple[Case, Verdict]]:
    """Each case with its verdict, as they come."""
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Case, Verdict] | Exception] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)

    def work() -> None:
        worker = Worker()
        try:
            while not waiting.empty():
                case = waiting.get_nowait()
                done.put((case, worker.judge(case, seed)))
        except queue.Empty:
            pass
        except Exception as error:
            done.put(error)
        finally:
            worker.stop()

    for _ in range(min(jobs, len(cases))):
        threading.Thread(target=work, daemon=True).start()
    for _ in cases:
        item = done.get()
        if isinstance(item, Exception):
            raise item
        yield item
