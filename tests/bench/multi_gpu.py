"""FlashComm and fused collectives on several GPUs, beside eager, Inductor and the cost model.

    python tests/bench/multi_gpu.py --out $OUT                      all world sizes that fit, NCCL
    python tests/bench/multi_gpu.py --device cpu --small --out DIR  small shapes over gloo
    python tests/bench/multi_gpu.py --tokens 1024,decode64          these sizes alone, in this order
    python tests/bench/multi_gpu.py --report DIR                    the reports of a folder's rows

Every variant is first compared with the eager model. On GPUs Inductor compiles the plain spelling
beside them, in the same rounds. Writes worldN.json after each size, and at the end results.json,
bars.json, table.txt and plot.png. The exit status is 1 where nothing was measured or a bar is
broken.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # no NVLink multicast: not every host allows it
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "bench")]

import torch  # noqa: E402
import torch.multiprocessing as multiprocessing  # noqa: E402
from crossing_bars import Row, bar_lines, bars, table  # noqa: E402
from finished_estimates import finished_milliseconds  # noqa: E402
from multi_gpu_plot import plot  # noqa: E402
from multi_gpu_rank import PREFILL, Run, Task, work  # noqa: E402
from qwen3_stack import SMALL, Shape  # noqa: E402

ORDER = "1024,4096,256,decode64,16384,2048,512,8192,64,decode16,16,1023,4095,2047,768"
"""The most telling sizes first: a run that is cut short still finds the crossing. Odd sizes leave
rows over, which FlashComm pads."""
SMALL_ORDER = "16,64,3,decode16"
GRACE = 20.0
"""Seconds beyond the time limit after which processes are stopped; they end before it by
themselves unless one hangs."""


def main() -> int:
    given = arguments()
    if given.report:
        return report(Path(given.report), given)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    available = torch.cuda.device_count() if given.device == "cuda" else 2
    worlds = [int(w) for w in given.worlds.split(",") if w]
    worlds = worlds or [w for w in (1, 2, 4, 8) if w <= available]
    end = time.time() + given.seconds
    # The widest world first: it is what the measurement is for.
    for index, world in enumerate(sorted(worlds, reverse=True)):
        left = end - time.time()
        share = left if index == len(worlds) - 1 else left * 0.7
        deadline = time.time() + share
        run = Run(
            given.device, given.small, given.layers, tasks(given), deadline, str(out), free_port()
        )
        try:
            run_world(world, run)
        except Exception:
            traceback.print_exc()
        collect(out, worlds)
    return report(out, given)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default=os.environ.get("OUT", "multi_gpu"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--worlds", default="", help="such as 1,2,4; empty for all that fit")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", default="", help=f"default: {ORDER}")
    parser.add_argument("--seconds", type=float, default=440, help="for all world sizes together")
    parser.add_argument("--small", action="store_true", help="a small model and few sizes")
    parser.add_argument("--report", metavar="DIR", help="measure nothing; needs the same --layers")
    return parser.parse_args()


def tasks(given: argparse.Namespace) -> tuple[Task, ...]:
    """What to measure, in order."""
    words = (given.tokens or (SMALL_ORDER if given.small else ORDER)).split(",")
    return tuple(map(task_of, words))


def task_of(word: str) -> Task:
    """`1024` is prefill of so many tokens, `decode64` one step of so many sequences."""
    kind = "decode" if word.startswith("decode") else "prefill"
    return Task(kind, int(word.removeprefix("decode")))


def run_world(world: int, run: Run) -> None:
    """Run the ranks; stop them where they overrun the deadline.

    Raises:
        TimeoutError: they did.
        Exception: what a rank raised.
    """
    context = multiprocessing.spawn(work, (world, run), nprocs=world, join=False)
    while not context.join(timeout=1):
        if time.time() > run.deadline + GRACE:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"world {world} was stopped {GRACE:.0f} s after its time")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def collect(out: Path, worlds: list[int]) -> None:
    """results.json: the rows of all worlds so far."""
    found = [path for world in worlds if (path := out / f"world{world}.json").exists()]
    rows = [row for path in found for row in json.loads(path.read_text())]
    (out / "results.json").write_text(json.dumps(rows, indent=1))


def report(out: Path, given: argparse.Namespace) -> int:
    """Estimates of the finished graphs, the bars, the table and the plot."""
    rows = [Row(**row) for row in json.loads((out / "results.json").read_text())]
    try:
        predict(rows, SMALL if given.small else Shape(), given.layers, out)
    except Exception:
        traceback.print_exc()  # the measurements are worth more than what is made of them
    found = bars(rows)
    (out / "results.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    (out / "bars.json").write_text(json.dumps(found, indent=1))
    text = "\n".join([table(rows), *bar_lines(found)])
    (out / "table.txt").write_text(text + "\n")
    print(text)
    plot(rows, out / "plot.png")
    measured = any(row.milliseconds is not None for row in rows)
    return 0 if measured and not any(bar["holds"] is False for bar in found) else 1


def predict(rows: list[Row], shape: Shape, layers: int, out: Path) -> None:
    """Fill in what the cost model says of each prefill graph of ours after all passes."""
    wanted = [row for row in rows if row.kind == "prefill" and row.variant in PREFILL]
    for world, tokens in dict.fromkeys((row.world, row.tokens) for row in wanted):
        profile = str(out / f"profile{world}.json")
        estimates = finished_milliseconds(shape, layers, world, tokens, PREFILL, profile)
        for row in wanted:
            if (row.world, row.tokens) == (world, tokens):
                row.predicted = estimates[row.variant]


if __name__ == "__main__":
    sys.exit(main())
