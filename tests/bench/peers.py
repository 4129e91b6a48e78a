"""How fast layers are under eager, Inductor and `ascend_dense`, beside what the GPU can do.

    python tests/bench/peers.py [--layers 8] [--decode 1 32 128 256] [--prefill 512 2048 8192]
    python tests/bench/peers.py --layers 64 --decode 1 --prefill --captured
    python tests/bench/peers.py --layers 64 --decode 1 32 128 --prefill 4096 --captured --each-layer
    python tests/bench/peers.py --stack hugging_face [--no-decode-mask] [--no-float-weights]

Qwen3-32B's sizes, W8A8, plain torch (`peers_stack.py`) or Hugging Face's own model
(`peers_hugging_face.py`: which masks, which weights). The floor is measured in the same run:
each product takes the bytes of its weight at the card's read bandwidth or its operations at the
best rate that cuBLAS or our kernel has for a large int8 product, whichever is longer, and attention
its KV cache or its bfloat16 operations. It counts no norm, no activation, no mask and no embedding,
and no stack has a head. All peers are timed in turns. Writes `peers.json` and `peers.md` into
`$OUT`, or `build`, after each row, and `peers.png` after the last.
The exit status is the number of rows in which another peer is as fast as a captured `ascend_dense`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.bench.device_timing import captured  # noqa: E402 - found without an installation
from tests.bench.peers_plot import draw  # noqa: E402
from tests.bench.peers_stack import PlainStack  # noqa: E402
from tests.bench.qwen3_stack import BFLOAT16_CODE, SMALL, Shape  # noqa: E402

CONTEXT = 1024
ROUNDS = 7
OURS = "ascend_dense captured"
Step = Callable[[], Any]


def milliseconds(step: Step, repeats: int) -> float:
    """Of one step, by device events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / repeats


def rates() -> dict[str, float]:
    """What the card reads in bytes, and multiplies in int8 and bfloat16 operations, per ms."""
    large = torch.randint(-127, 128, (4 << 30,), dtype=torch.int8, device="cuda").view(torch.int64)
    read = captured(lambda: large.sum())
    size = 8192
    whole = torch.randint(-127, 128, (size, size), dtype=torch.int8, device="cuda")
    half = torch.randn(size, size, dtype=torch.bfloat16, device="cuda")
    scale = torch.ones(size, device="cuda")
    ours = torch.ops.npu.npu_quant_matmul
    products = {
        "int8 of cuBLAS": lambda: torch._int_mm(whole, whole.t()),
        "int8 of ours": lambda: ours(whole, whole.t(), scale, output_dtype=BFLOAT16_CODE),
        "bf16": lambda: half @ half.t(),
    }
    found = {"bytes": large.nbytes / min(milliseconds(read, 3) for _ in range(5))}
    for name, product in products.items():
        replay = captured(product)
        milliseconds(replay, 20)
        found[name] = 2 * size**3 / min(milliseconds(replay, 10) for _ in range(5))
    return {**found, "int8": max(found["int8 of cuBLAS"], found["int8 of ours"])}


def floor(shape: Shape, layers: int, tokens: int, decode: bool, rate: dict[str, float]) -> float:
    """Milliseconds that no program is below."""
    width = shape.heads * shape.head_size
    keys = 2 * shape.kv_heads * shape.head_size
    products = (
        (width + keys, shape.hidden),
        (shape.hidden, width),
        (2 * shape.intermediate, shape.hidden),
        (shape.hidden, shape.intermediate),
    )
    total = sum(max(n * k / rate["bytes"], 2 * tokens * n * k / rate["int8"]) for n, k in products)
    if decode:
        total += tokens * CONTEXT * keys * 2 / rate["bytes"]
    else:
        total += 2 * tokens * tokens * width / rate["bf16"]  # causal: half of both products
    return layers * total


def compiled(model: Any, backend: str, each_layer: bool) -> Any:
    """The model under a backend, for the sizes of the next call alone.

    With `each_layer` its layers share one compilation, as in a server: it takes the place of the
    last one.
    """
    how: dict[str, Any] = {"backend": backend, "dynamic": False, "fullgraph": True}
    if not each_layer:
        return torch.compile(model, **how)
    torch._dynamo.reset()
    for layer in model.layers:
        layer.compile(**how)
    return model


def peers_of(stack: Any) -> dict[str, tuple[Any, str]]:
    """Name of a compiled peer -> the model and its backend: Inductor has all programs, we the
    first."""
    programs = stack.programs()
    rivals = {f"Inductor{suffix}": (model, "inductor") for suffix, model in programs.items()}
    return {**rivals, "ascend_dense": (programs[""], "ascend_dense")}


def stack_of(settings: argparse.Namespace, shape: Shape) -> Any:
    """The model that is asked for, on the GPU."""
    if settings.stack == "plain":
        return PlainStack(shape, settings.layers, "cuda")
    from tests.bench.peers_hugging_face import HuggingFaceStack

    return HuggingFaceStack(
        shape, settings.layers, "cuda", settings.float_weights, settings.decode_mask
    )


def use_ascend_dense() -> None:
    """Make the backend's name known without an installation."""
    from ascend_passes.backend import ascend_dense

    if "ascend_dense" not in torch._dynamo.list_backends(exclude_tags=()):
        torch._dynamo.register_backend(ascend_dense, name="ascend_dense")


def require_no_errors() -> None:
    """Raise RuntimeError where a pass or the executor failed: the graph runs without it, slower."""
    import ascend_passes

    failed = [error for report in ascend_passes.reports() for error in report.errors]
    if failed:
        raise RuntimeError(failed[0])


def measure(stack: Any, tokens: int, decode: bool, settings: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each peer: the median, the least and the most of the rounds."""
    torch._dynamo.reset()  # not between peers: the first would be compiled again when it is timed
    gc.collect()  # the last row's cache
    call = stack.step(tokens, CONTEXT if decode else None)
    steps: dict[str, Step] = {}
    seconds, results = {}, {}
    for suffix, model in stack.programs().items():
        steps[f"eager{suffix}"] = partial(call, model)
        results[f"eager{suffix}"] = call(model)
    for name, (model, backend) in peers_of(stack).items():
        begin = time.perf_counter()
        forward = compiled(model, backend, settings.each_layer)
        results[name] = call(forward)
        require_no_errors()
        seconds[name] = time.perf_counter() - begin
        steps[name] = partial(call, forward)
        steps[f"{name} captured"] = captured(steps[name])
    if settings.captured:
        steps = {name: step for name, step in steps.items() if name.endswith("captured")}
    if settings.profile:
        kernels_of(steps, Path(settings.out), f"{'decode' if decode else 'prefill'}-{tokens}")
    samples: dict[str, list[float]] = {name: [] for name in steps}
    repeats = {name: 1 + int(20 / max(milliseconds(s, 1), 0.1)) for name, s in steps.items()}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            samples[name].append(milliseconds(step, repeats[name]))
    for model in stack.programs().values():
        for layer in model.layers:
            layer._compiled_call_impl = None  # the next row's eager step is eager
    exact = results["eager"].double()
    scale = exact.norm()
    return {
        "milliseconds": {name: statistics.median(found) for name, found in samples.items()},
        "low": {name: min(found) for name, found in samples.items()},
        "high": {name: max(found) for name, found in samples.items()},
        "compile_seconds": seconds,
        "from_eager": {n: float((r.double() - exact).norm() / scale) for n, r in results.items()},
    }


def kernels_of(steps: dict[str, Step], folder: Path, name: str) -> None:
    """Write which kernels take the time of the two captured peers."""
    from torch.profiler import ProfilerActivity, profile

    for peer in ("Inductor captured", OURS):
        steps[peer]()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(3):
                steps[peer]()
            torch.cuda.synchronize()
        table = profiler.key_averages().table(
            sort_by="cuda_time_total", row_limit=16, max_name_column_width=70
        )
        rows = [line for line in table.splitlines() if line.strip()]
        print(f"== {name}, {peer}", flush=True)
        for event in sorted(profiler.key_averages(), key=lambda e: -e.device_time_total)[:14]:
            print(f"{event.device_time_total / 3:9.1f} us {event.count // 3:4d}x {event.key[:90]}")
        (folder / f"{name}-{peer.replace(' ', '-')}.txt").write_text("\n".join(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: milliseconds, and how many times the floor."""
    peers = list(rows[0]["milliseconds"])
    lines = ["| step | floor, ms | " + " | ".join(peers) + " |", "|---" * (len(peers) + 2) + "|"]
    for row in rows:
        cells = [
            f"{row['milliseconds'][p]:.3f} ({row['milliseconds'][p] / row['floor']:.2f})"
            for p in peers
        ]
        lines.append(
            f"| {row['step']} {row['tokens']} | {row['floor']:.3f} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def is_ahead(milliseconds: Mapping[str, float]) -> bool:
    """Whether a captured `ascend_dense` takes less than every other compiler and eager."""
    others = [found for peer, found in milliseconds.items() if not peer.startswith("ascend_dense")]
    return milliseconds[OURS] < min(others)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--decode", type=int, nargs="*", default=[1, 32, 128, 256])
    parser.add_argument("--prefill", type=int, nargs="*", default=[512, 2048, 8192])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--captured", action="store_true", help="time the captured peers alone")
    parser.add_argument(
        "--each-layer", action="store_true", help="compile one layer for all; with --captured"
    )
    parser.add_argument("--stack", choices=("plain", "hugging_face"), default="plain")
    parser.add_argument(
        "--decode-mask",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="of hugging_face: decode with the mask that `generate` makes, though all is seen",
    )
    parser.add_argument(
        "--float-weights",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="of hugging_face: time eager and Inductor with bfloat16 weights as well",
    )
    parser.add_argument("--small", action="store_true", help="a model that any card runs")
    parser.add_argument("--out", default=os.environ.get("OUT", "build"))
    settings = parser.parse_args()
    if settings.each_layer and settings.stack != "plain":
        parser.error("--each-layer: layers of hugging_face know their numbers and share no code")
    Path(settings.out).mkdir(exist_ok=True, parents=True)
    use_ascend_dense()
    importlib.import_module("ascend_passes.npu")
    rate, shape = rates(), SMALL if settings.small else Shape()
    rows: list[dict[str, Any]] = []
    card = torch.cuda.get_device_name()
    print(
        f"{card}, torch {torch.__version__}: "
        + ", ".join(f"{v:.4g} {k}/ms" for k, v in rate.items())
    )
    found = {"card": card, "torch": torch.__version__, "rates_per_ms": rate, "rows": rows}
    with torch.no_grad():
        stack = stack_of(settings, shape)
        for step, tokens in [
            *(("decode", n) for n in settings.decode),
            *(("prefill", n) for n in settings.prefill),
        ]:
            row = {"step": step, "tokens": tokens, "layers": settings.layers}
            row["stack"] = settings.stack
            row["floor"] = floor(shape, settings.layers, tokens, step == "decode", rate)
            row |= measure(stack, tokens, step == "decode", settings)
            rows.append(row)
            print(
                table(rows[-1:]).splitlines()[-1],
                row["from_eager"],
                row["compile_seconds"],
                flush=True,
            )
            (Path(settings.out) / "peers.json").write_text(json.dumps(found, indent=1))
            (Path(settings.out) / "peers.md").write_text(table(rows) + "\n")
    print(table(rows))
    draw(found, Path(settings.out) / "peers.png")
    return sum(not is_ahead(row["milliseconds"]) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
