"""One rank of `multi_gpu.py`: every variant is checked against eager, then timed."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from crossing_bars import INDUCTOR, PLAIN, Row
from cuda_decode import runners
from device_timing import Step, can_capture, captured, spread, timed
from qwen3_stack import SMALL, VOCABULARY, Shape, Stack
from wire import wire

from ascend_passes import ascend_dense, reports, reset
from ascend_passes.cli.measure import measured_profile

CONTEXT = 1024
ERROR_BOUND = 0.03
"""Largest root mean square of the difference over that of the output: bfloat16 sums in another
order move int8 activations by a step here and there, noise of about 1/127 to later layers."""
PATIENCE = timedelta(seconds=120)
"""How long a rank waits in a collective; ranks compile for different times."""
FEWEST_SECONDS = 10.0
"""A task is not begun with less time left than this, or than the last one took."""
MOST_COPIED = 16384
"""Bytes that a captured decode step may copy: token ids, and no cache."""
FLASHCOMM = {"flashcomm": True, "flashcomm_tokens": 0, "passes": "-sequence_parallel.cost"}
PREFILL: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"matmul_reduce_scatter": False},
    "flashcomm": FLASHCOMM | {"matmul_reduce_scatter": False},
    "flashcomm+mm_rs": FLASHCOMM
    | {"matmul_reduce_scatter": True, "matmul_reduce_scatter_tokens": 0},
}
DECODE: Mapping[str, Mapping[str, Any]] = {PLAIN: {}, "captured": {"cudagraph_mode": "FULL"}}


@dataclass(frozen=True)
class Task:
    """One size."""

    kind: str
    tokens: int


@dataclass(frozen=True)
class Run:
    """What the processes of one world share."""

    device: str
    small: bool
    layers: int
    tasks: tuple[Task, ...]
    deadline: float
    out: str
    port: int

    @property
    def shape(self) -> Shape:
        """The model's sizes."""
        return SMALL if self.small else Shape()


def work(rank: int, world: int, run: Run) -> None:
    """The process of one rank; it ends without tearing the group down.

    NCCL waits at its end for graphs that hold its collectives, and Python's exit for NCCL.
    """
    try:
        measure(rank, world, run)
        dist.barrier()
        status = 0
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def measure(rank: int, world: int, run: Run) -> None:
    """All tasks in order until time is up; what is measured so far is on disk after each."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(run.port)}
    torch.set_num_threads(1)
    cuda = run.device == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    place = torch.device("cuda", rank) if cuda else None
    dist.init_process_group(
        "nccl" if cuda else "gloo", rank=rank, world_size=world, timeout=PATIENCE, device_id=place
    )
    torch._dynamo.config.recompile_limit = 1000  # many sizes of one model are compiled on purpose
    torch._dynamo.config.accumulated_recompile_limit = 1000
    replay = can_capture(run.device)
    profile = shared_profile(rank, world, run, replay)
    group = dist.group.WORLD.group_name  # type: ignore[union-attr]
    model = Stack(run.shape, run.layers, world, group, run.device, seed=100 + rank)
    rows: list[Row] = []
    lasted = FEWEST_SECONDS
    for task in run.tasks:
        if late(run, lasted):
            break
        start = time.time()
        found = compare(model, compiled(model, task, profile), task, run, world, replay)
        rows += found
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        torch._dynamo.reset()
        lasted = max(FEWEST_SECONDS, time.time() - start)
        if rank == 0:
            save(rows, found, lasted, Path(run.out, f"world{world}.json"))


def save(rows: list[Row], found: list[Row], seconds: float, path: Path) -> None:
    """Write all rows so far and print the new ones."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    for row in found:
        print(row, flush=True)
    print(f"{found[0].kind} {found[0].tokens}: {seconds:.1f} s", flush=True)


def late(run: Run, reserve: float) -> bool:
    """Whether rank 0 says that less time is left than another task takes."""
    flag = torch.tensor([float(time.time() + reserve > run.deadline)], device=run.device)
    dist.broadcast(flag, 0)
    return bool(flag.item())


def shared_profile(rank: int, world: int, run: Run, replay: bool) -> str:
    """Measure this machine as steps are timed; all ranks then compute with rank 0's figures.

    Where prefill is replayed the figures of plain calls are kept as well, to compare.
    """
    path = Path(run.out, f"profile{world}.json")
    name = f"measured-{run.device}-x{world}"
    plain = measured_profile(run.device, name)
    made, failed = together(lambda: measured_profile(run.device, name, replay), run.device)
    if rank == 0:
        print(failed, end="")
        path.write_text((plain if failed else made).to_json())
        print(path.read_text(), flush=True)
        if replay:
            path.with_name(f"profile{world}_calls.json").write_text(plain.to_json())
    dist.barrier()
    return str(path)


def together(function: Callable[[], Any], device: str) -> tuple[Any, str]:
    """(result, "") where the function worked on all ranks, else (None, what went wrong where)."""
    result, failed = None, ""
    try:
        result = function()
        if device == "cuda":
            torch.cuda.synchronize()
    except Exception as error:
        failed = f"rank {dist.get_rank()}: {type(error).__name__}: {error}"
        traceback.print_exc()
    flag = torch.tensor([float(not failed)], device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    if flag.item():
        return result, ""
    texts = [""] * dist.get_world_size()
    dist.all_gather_object(texts, failed)
    return None, "; ".join(filter(None, texts))


def compiled(model: Stack, task: Task, profile: str) -> dict[str, Callable[..., Any]]:
    """Variant -> the model compiled in that way."""
    made: dict[str, Callable[..., Any]] = {}
    for name, chosen in (PREFILL if task.kind == "prefill" else DECODE).items():
        options = {"profile": profile, **chosen}
        spelled = model.spelled("npu")
        made[name] = torch.compile(spelled, backend=ascend_dense, options=options, dynamic=False)
    if model.norm.is_cuda:
        made[INDUCTOR] = torch.compile(model, backend="inductor", dynamic=False)
    return made


def inputs(run: Run, world: int, task: Task) -> tuple[torch.Tensor, ...]:
    """The same token ids on all ranks, and for decode a cache of earlier tokens."""
    generator = torch.Generator(run.device).manual_seed(task.tokens)
    ids = torch.randint(0, VOCABULARY, (task.tokens,), device=run.device, generator=generator)
    if task.kind == "prefill":
        return (ids,)
    kv_heads = max(1, run.shape.kv_heads // world)
    sizes = (2, task.tokens, kv_heads, CONTEXT, run.shape.head_size)
    cache = torch.randn(sizes, dtype=torch.bfloat16, device=run.device, generator=generator)
    torch._dynamo.mark_static_address(cache)  # as a server's cache: no graph copies it
    return ids, cache


@torch.no_grad()
def compare(
    model: Stack,
    made: Mapping[str, Callable[..., Any]],
    task: Task,
    run: Run,
    world: int,
    replay: bool,
) -> list[Row]:
    """Check every variant against eager, then time those that are right in turns.

    Prefill is replayed where it can be, which leaves out the host; decode is about the host, so it
    runs as a user would run it.
    """
    arguments = inputs(run, world, task)
    replay = replay and task.kind == "prefill"
    every = {"eager": model, **made}
    rows = {name: Row(world, task.kind, task.tokens, name, replayed=replay) for name in every}
    expected, failed = together(lambda: model(*arguments), run.device)
    if failed:
        return [Row(world, task.kind, task.tokens, n, failed=f"eager: {failed}") for n in every]
    steps: dict[str, Step] = {}
    for name, function in every.items():
        call: Step = lambda function=function: function(*arguments)  # noqa: E731
        step = prepared(rows[name], call, expected, world, run)
        if step is not None:
            steps[name] = step
    samples = timed(steps, run.device)
    for name, found in samples.items():
        for key, figure in spread(found).items():
            setattr(rows[name], key, figure)
    if "captured" in steps:
        rows["captured"].captured = replays_one_graph(steps["captured"])
    return list(rows.values())


def prepared(row: Row, call: Step, expected: torch.Tensor, world: int, run: Run) -> Step | None:
    """Compile and check one variant and fill its row; the step to time, None where it failed."""
    reset()
    found, row.failed = together(call, run.device)
    if row.failed:
        return None
    row.error = difference(found, expected)
    if not row.error < ERROR_BOUND:
        row.failed = f"off from eager by {row.error:.4f}, more than {ERROR_BOUND}"
        return None
    row.decided_without, row.decided_with = decision()
    if row.variant in PREFILL:
        counted, row.failed = together(lambda: wire(call, world), run.device)
        row.sent_bytes = None if row.failed else counted.sent
    if row.failed or not row.replayed:
        return None if row.failed else call
    replayed, row.failed = together(lambda: captured(call), run.device)
    return replayed


def decision() -> tuple[float | None, float | None]:
    """Milliseconds without FlashComm and with it, as the compilation just made estimated them."""
    taken = [
        d for report in reports() for d in report.decisions if d.subject == "sequence_parallel"
    ]
    if not taken or taken[-1].before is None or taken[-1].after is None:
        return None, None
    return taken[-1].before * 1e3, taken[-1].after * 1e3


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference over that of the expected values, of the worst rank."""
    wide = expected.float()
    ratio = ((found.float() - wide).pow(2).mean() / wide.pow(2).mean()).sqrt()
    dist.all_reduce(ratio, dist.ReduceOp.MAX)
    return float(ratio)


def replays_one_graph(step: Step) -> bool:
    """Whether one more step is exactly one replay and copies no cache into the graph."""
    alive = runners()
    before = [(runner.counters.replays, runner.counters.bytes_in) for runner in alive]
    step()
    changes = [
        (runner.counters.replays - replays, runner.counters.bytes_in - copied)
        for runner, (replays, copied) in zip(alive, before, strict=True)
    ]
    moved = [change for change in changes if change != (0, 0)]
    return len(moved) == 1 and moved[0][0] == 1 and moved[0][1] <= MOST_COPIED
