"""FlashComm and fused collectives on several GPUs, beside eager, Inductor and the cost model.

    python tests/bench/multi_gpu.py --out $OUT                      all world sizes that fit, NCCL
    python tests/bench/multi_gpu.py --device cpu --small --out DIR  small shapes over gloo
    python tests/bench/multi_gpu.py --plot-only DIR                 the plot from a results file

Writes results.json, table.txt and plot.png. Every variant is first compared with the eager model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # no NVLink multicast: not every host allows it
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "bench")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as multiprocessing  # noqa: E402
from qwen3_stack import SMALL, VOCABULARY, Shape, Stack  # noqa: E402
from wire import wire  # noqa: E402

from ascend_passes import ascend_dense, reports, reset  # noqa: E402
from ascend_passes.measure import measured_profile, synchronize  # noqa: E402

TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
SMALL_TOKENS = (3, 16, 64)
CONTEXT = 1024
DECODE = (16, 64)
ROUNDS = 7
ERROR_BOUND = 0.03
"""Largest root mean square of the difference over that of the output: bfloat16 sums in another
order move int8 activations by a step here and there, noise of about 1/127 to later layers."""
FLASHCOMM = {"flashcomm": True, "flashcomm_tokens": 0, "passes": "-sequence_parallel.cost"}
VARIANTS: dict[str, dict[str, Any]] = {
    "ascend_dense": {},
    "flashcomm": FLASHCOMM | {"matmul_reduce_scatter": False},
    "flashcomm+mm_rs": FLASHCOMM
    | {"matmul_reduce_scatter": True, "matmul_reduce_scatter_tokens": 0},
}


@dataclass
class Row:
    """One measurement."""

    world: int
    kind: str
    tokens: int
    variant: str
    milliseconds: float
    low: float
    high: float
    error: float
    replayed: bool
    sent_bytes: float | None = None
    predicted: float | None = None
    """The cost model's milliseconds, for a FlashComm variant."""
    predicted_without: float | None = None
    """The cost model's milliseconds of the same graph without FlashComm."""


@dataclass
class Run:
    """What the processes of one world share."""

    device: str
    small: bool
    layers: int
    deadline: float
    out: str
    port: int

    @property
    def shape(self) -> Shape:
        """The model's sizes."""
        return SMALL if self.small else Shape()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=os.environ.get("OUT", "multi_gpu"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--worlds", default="", help="such as 1,2,4; empty for all that fit")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=440, help="no new measurement after this")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--plot-only", metavar="DIR")
    given = parser.parse_args()
    if given.plot_only:
        return plot(Path(given.plot_only))
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    available = torch.cuda.device_count() if given.device == "cuda" else 2
    worlds = [int(w) for w in given.worlds.split(",") if w]
    worlds = worlds or [w for w in (1, 2, 4, 8) if w <= available]
    start = time.time()
    rows: list[dict[str, Any]] = []
    # The widest world first: it is what the measurement is for.
    for index, world in enumerate(sorted(worlds, reverse=True)):
        left = given.seconds - (time.time() - start)
        share = left if index == len(worlds) - 1 else left * 0.7
        run = Run(
            given.device, given.small, given.layers, time.time() + share, str(out), free_port()
        )
        try:
            multiprocessing.spawn(work, (world, run), nprocs=world)
        except Exception:
            traceback.print_exc()
        found = out / f"world{world}.json"
        rows += json.loads(found.read_text()) if found.exists() else []
        (out / "results.json").write_text(json.dumps(rows, indent=1))
    text = table([Row(**row) for row in rows])
    (out / "table.txt").write_text(text)
    print(text)
    plot(out)
    return 0 if rows else 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def work(rank: int, world: int, run: Run) -> None:
    """One rank: all variants at all token counts, rank 0 keeps the results."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(run.port)}
    torch.set_num_threads(1)
    if run.device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if run.device == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=world)
    torch.manual_seed(7)
    torch._dynamo.config.recompile_limit = 1000  # many sizes of one model are compiled on purpose
    torch._dynamo.config.accumulated_recompile_limit = 1000
    try:
        profile = shared_profile(rank, world, run)
        rows = measured(rank, world, run, profile)
        if rank == 0:
            text = json.dumps([asdict(row) for row in rows], indent=1)
            Path(run.out, f"world{world}.json").write_text(text)
    finally:
        dist.destroy_process_group()


def shared_profile(rank: int, world: int, run: Run) -> str:
    """Measure this machine; all ranks then compute with rank 0's figures."""
    path = Path(run.out, f"profile{world}.json")
    profile = measured_profile(run.device, f"measured-{run.device}-x{world}")
    if rank == 0:
        path.write_text(profile.to_json())
        print(profile.to_json(), flush=True)
    dist.barrier()
    return str(path)


def measured(rank: int, world: int, run: Run, profile: str) -> list[Row]:
    group = dist.group.WORLD.group_name  # type: ignore[union-attr]
    model = Stack(run.shape, run.layers, world, group, run.device, seed=100 + rank)
    replayed = run.device == "cuda" and can_capture(run.device)
    inductor = (
        torch.compile(model, backend="inductor", dynamic=True) if run.device == "cuda" else None
    )
    rows: list[Row] = []
    for kind, counts in (("prefill", prefill_tokens(run)), ("decode", DECODE)):
        for tokens in counts:
            if late(run):
                return rows
            ids, cache = inputs(run, world, tokens, kind)
            made = variants(model, inductor, kind, profile)
            found = compare(made, ids, cache, world, run, kind, tokens, replayed)
            rows += found
            if rank == 0:
                for row in found:
                    print(row, flush=True)
    return rows


def prefill_tokens(run: Run) -> tuple[int, ...]:
    """From the middle outwards, so that a short run still finds the crossing."""
    counts = SMALL_TOKENS if run.small else TOKENS
    return tuple(sorted(counts, key=lambda count: abs(counts.index(count) - len(counts) // 2)))


def late(run: Run) -> bool:
    """Whether rank 0 says that time is up."""
    flag = torch.tensor([float(time.time() > run.deadline)], device=run.device)
    dist.broadcast(flag, 0)
    return bool(flag.item())


def inputs(
    run: Run, world: int, tokens: int, kind: str
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same token ids on all ranks, and for decode a cache of earlier tokens."""
    generator = torch.Generator(run.device).manual_seed(tokens)
    ids = torch.randint(0, VOCABULARY, (tokens,), device=run.device, generator=generator)
    if kind == "prefill":
        return ids, None
    kv_heads = max(1, run.shape.kv_heads // world)
    sizes = (2, tokens, kv_heads, CONTEXT, run.shape.head_size)
    made = {"dtype": torch.bfloat16, "device": run.device, "generator": generator}
    return ids, torch.randn(sizes, **made)


def variants(
    model: Stack, inductor: Callable[..., Any] | None, kind: str, profile: str
) -> dict[str, Callable[..., Any]]:
    """Name -> the model compiled in that way; the first is the unrewritten one."""
    made: dict[str, Callable[..., Any]] = {"eager": model}
    if inductor is not None:
        made["inductor"] = inductor
    options = VARIANTS if kind == "prefill" else {"ascend_dense": {}, "captured": capture_options()}
    for name, chosen in options.items():
        spelled = model.spelled("npu")
        full = {"profile": profile, "matmul_reduce_scatter": False} | chosen
        made[name] = torch.compile(spelled, backend=ascend_dense, options=full, dynamic=False)
    return made


def capture_options() -> dict[str, Any]:
    """Decode as one captured graph."""
    return {"cudagraph_mode": "FULL"}


def compare(
    made: dict[str, Callable[..., Any]],
    ids: torch.Tensor,
    cache: torch.Tensor | None,
    world: int,
    run: Run,
    kind: str,
    tokens: int,
    replayed: bool,
) -> list[Row]:
    """Check every variant against the first, then time them in turns."""
    arguments = (ids,) if cache is None else (ids, cache)
    steps: dict[str, Callable[[], Any]] = {}
    facts: dict[str, dict[str, Any]] = {}
    with torch.no_grad():
        expected = made["eager"](*arguments)
        for name, function in made.items():
            reset()
            call = lambda function=function: function(*arguments)  # noqa: E731
            found = call()
            error = difference(found, expected)
            if not error < ERROR_BOUND:
                raise AssertionError(f"{name} at {tokens} tokens is off by {error:.4f}")
            facts[name] = {"error": error} | predictions(name)
            if name not in ("inductor", "captured"):
                facts[name]["sent_bytes"] = wire(call, world).sent
            # Replays leave out the host; decode is about the host, so it runs as a user would.
            replay = replayed and kind == "prefill"
            steps[name] = captured(call) if replay else call
            facts[name]["replayed"] = replay
        samples = timed(steps, run.device)
    return [Row(world, kind, tokens, name, *spread(samples[name]), **facts[name]) for name in steps]


def predictions(name: str) -> dict[str, Any]:
    """The cost model's milliseconds, from the decision that the compilation took."""
    decisions = [
        d for report in reports() for d in report.decisions if d.subject == "sequence_parallel"
    ]
    if not decisions or decisions[-1].after is None:
        return {}
    return {"predicted": decisions[-1].after * 1e3, "predicted_without": decisions[-1].before * 1e3}  # type: ignore[operator]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference over that of the expected values, of the worst rank."""
    wide = expected.float()
    ratio = ((found.float() - wide).pow(2).mean() / wide.pow(2).mean()).sqrt()
    dist.all_reduce(ratio, dist.ReduceOp.MAX)
    return float(ratio)


def can_capture(device: str) -> bool:
    """Whether a collective can be captured in a device graph here; the same on all ranks."""
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


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
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


def timed(steps: dict[str, Callable[[], Any]], device: str) -> dict[str, list[float]]:
    """Milliseconds of each step, a few rounds in turns; a round is as slow as its slowest rank."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    repeats = 3 if device == "cpu" else 10
    for _ in range(ROUNDS):
        for name, step in steps.items():
            dist.barrier()
            elapsed = torch.tensor([milliseconds(step, repeats, device)], device=device)
            dist.all_reduce(elapsed, dist.ReduceOp.MAX)
            samples[name].append(float(elapsed))
    return samples


def milliseconds(step: Callable[[], Any], repeats: int, device: str) -> float:
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


def spread(samples: list[float]) -> tuple[float, float, float]:
    """(median, least, most)."""
    return statistics.median(samples), min(samples), max(samples)


def table(rows: list[Row]) -> str:
    """All measurements, the crossing points, and where FlashComm broke the model's promise."""
    head = f"{'tp':>2} {'kind':<8}{'tokens':>7} {'variant':<17}{'ms':>9}{'low':>9}{'high':>9}"
    lines = [head + f"{'error':>8}{'sent MiB':>10}{'model ms':>10}{'without':>10}"]
    for row in sorted(rows, key=lambda row: (row.world, row.kind, row.tokens)):
        figures = f"{row.milliseconds:9.3f}{row.low:9.3f}{row.high:9.3f}{row.error:8.4f}"
        sent = "-" if row.sent_bytes is None else f"{row.sent_bytes / 2**20:.2f}"
        model = "-" if row.predicted is None else f"{row.predicted:.3f}"
        without = "-" if row.predicted_without is None else f"{row.predicted_without:.3f}"
        place = f"{row.world:>2} {row.kind:<8}{row.tokens:>7} {row.variant:<17}"
        lines.append(place + figures + f"{sent:>10}{model:>10}{without:>10}")
    for world in sorted({row.world for row in rows if row.world > 1}):
        for variant in ("flashcomm", "flashcomm+mm_rs"):
            lines += verdict([row for row in rows if row.world == world], world, variant)
    return "\n".join(lines)


def verdict(rows: list[Row], world: int, variant: str) -> list[str]:
    """The measured and the predicted crossing, and each size where the model was wrong to act."""
    plain = {r.tokens: r for r in rows if r.variant == "ascend_dense" and r.kind == "prefill"}
    other = {r.tokens: r for r in rows if r.variant == variant and r.tokens in plain}
    measured_points = [(t, other[t].milliseconds - plain[t].milliseconds) for t in sorted(other)]
    model_points = [
        (t, row.predicted - row.predicted_without)
        for t, row in sorted(other.items())
        if row.predicted is not None and row.predicted_without is not None
    ]
    lines = [
        f"tp {world} {variant}: pays from {crossing(measured_points)} tokens measured, "
        f"{crossing(model_points)} predicted"
    ]
    for tokens, gain in model_points:
        slower = other[tokens].low > plain[tokens].high
        if gain < 0 and slower:
            lines.append(f"  slower at {tokens} tokens though the model turns it on")
    return lines


def crossing(points: list[tuple[int, float]]) -> str:
    """Where the difference turns and stays negative, interpolated; in words if it does not turn."""
    if not points:
        return "no"
    if points[-1][1] >= 0:
        return f"more than {points[-1][0]}"
    for (low, before), (high, after) in reversed(list(itertools.pairwise(points))):
        if before >= 0 > after:
            return f"{round(low + (high - low) * before / (before - after))}"
    return f"at most {points[0][0]}"


def plot(out: Path) -> int:
    """plot.png from results.json: time against tokens, measured and predicted."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("no matplotlib here; run with --plot-only on a machine that has it")
        return 0
    rows = [Row(**row) for row in json.loads((out / "results.json").read_text())]
    prefill = [row for row in rows if row.kind == "prefill"]
    worlds = sorted({row.world for row in prefill})
    figure, axes = pyplot.subplots(1, max(1, len(worlds)), figsize=(6 * max(1, len(worlds)), 5))
    for axis, world in zip([axes] if len(worlds) < 2 else axes, worlds, strict=False):
        for variant in dict.fromkeys(row.variant for row in prefill):
            line = sorted(
                (row for row in prefill if row.world == world and row.variant == variant),
                key=lambda row: row.tokens,
            )
            tokens = [row.tokens for row in line]
            axis.plot(tokens, [row.milliseconds for row in line], marker="o", label=variant)
            if variant == "flashcomm" and line and line[0].predicted is not None:
                axis.plot(tokens, [row.predicted for row in line], "k--", label="model, flashcomm")
                axis.plot(
                    tokens, [row.predicted_without for row in line], "k:", label="model, without"
                )
        axis.set(
            xscale="log", yscale="log", xlabel="tokens", ylabel="ms per step", title=f"tp {world}"
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "plot.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
