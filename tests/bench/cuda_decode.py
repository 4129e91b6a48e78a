"""Decodes Qwen3 with random weights in eager, compiled and as captured graphs, and compares them.

    python tests/bench/cuda_decode.py                # a CUDA machine
    python tests/bench/cuda_decode.py --device cpu   # the recorder, with a tiny model

Run from the root of the repository; the package need not be installed. For each kind of weights and
each batch it checks that

* captured and uncaptured runs give equal logits and tokens, bit for bit,
* float32 tokens are eager's; the other logits are as near to float64 as eager's, by the bars of
  `ascend_passes.models.compare`,
* a captured step is one graph launch, looks cosines and sines up once, and makes nothing as large
  as a KV cache: neither a copy into the graph nor a fresh result inside it; the bytes that an
  uncaptured step allocates are in the table,
* a captured step makes the host wait nowhere,
* the asynchronous decode loop gives the tokens of the synchronous one,

prints a table with milliseconds per step, and writes `cuda_decode.json` into the folder `$OUT`, or
`build`, anew after each row. Rows that do not start within `--seconds` are left out and count as
failed.
The exit status is the number of rows with a failed check.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.allocations import allocations  # noqa: E402 - found without an installation

PROMPT = 16
EXACT_STEPS = 16
"""Steps whose logits are compared with float64."""
WARM = 4
"""Steps before the clock starts: compilation, warm-up and capture are the first three."""
TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
}
QWEN3_0_6B = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 8,  # of 28, so that twelve rows compile within three minutes
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
KINDS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "w8a8-static": torch.bfloat16,
    "w8a8-dynamic": torch.bfloat16,
}


def use_source_tree() -> None:
    """Make the package and its backend's name known without an installation."""
    from ascend_passes.backend import ascend_dense

    if "ascend_dense" not in torch._dynamo.list_backends(exclude_tags=()):
        torch._dynamo.register_backend(ascend_dense, name="ascend_dense")


@dataclass
class Row:
    """One kind of weights at one batch."""

    kind: str
    batch: int
    rows: int = 0
    eager_ms: float = 0.0
    compiled_ms: float = 0.0
    captured_ms: float = 0.0
    loop_ms: float = 0.0
    tokens_as_eager: str = ""
    error: float = 0.0
    """Relative error of the captured logits against float64; see `compare.Error`."""
    eager_error: float = 0.0
    launches: float = 0.0
    """Graph launches of one captured step."""
    cache_bytes: int = 0
    """Of the keys of one layer."""
    eager_bytes: int = 0
    """Allocated in one step."""
    compiled_bytes: int = 0
    captured_bytes: int = 0
    seconds: float = 0.0
    """Of the whole row."""
    failures: list[str] = field(default_factory=list)

    def check(self, name: str, good: bool) -> None:
        if not good:
            self.failures.append(name)


def step_with_logits(model: Any, tokens: Tensor, cache: Any) -> Tensor:
    logits = model(tokens, past_key_values=cache, use_cache=True).logits[:, -1]
    tokens.copy_(logits.argmax(-1, keepdim=True))
    return logits


class Session:
    """One prompt being decoded by one variant of the step."""

    def __init__(
        self, step: Callable[..., Tensor], model: Any, prompts: Tensor, length: int
    ) -> None:
        from transformers import StaticCache

        self.step, self.model = step, model
        self.cache = StaticCache(config=model.config, max_cache_len=length)
        logits = model(prompts, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits
        self.tokens = logits[:, -1].argmax(-1, keepdim=True)

    def advance(self) -> Tensor:
        return self.step(self.model, self.tokens, self.cache)

    def collect(self, steps: int) -> tuple[Tensor, Tensor]:
        """(tokens [B, steps], logits [B, steps, V]) of the next steps."""
        tokens, logits = [], []
        for _ in range(steps):
            logits.append(self.advance().clone())
            tokens.append(self.tokens.clone())
        return torch.cat(tokens, 1), torch.stack(logits, 1)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(session: Session, steps: int, device: str) -> float:
    for _ in range(WARM):
        session.advance()
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(steps):
        session.advance()
    synchronize(device)
    return (time.perf_counter() - begin) / steps * 1e3


def runners() -> list[Any]:
    """The capture runners alive in this process, however the backend keeps them."""
    from ascend_passes.capture import Runner

    return [found for found in gc.get_objects() if type(found) is Runner]


def large_results(runner: Any, size: int) -> Iterator[str]:
    """Nodes whose result is new memory of at least `size` bytes, and stores of that size."""
    from ascend_passes.ir.graph import is_view, written

    for node in runner.graph.nodes:
        fake = node.meta.get("val")
        if node.op != "call_function" or not isinstance(fake, Tensor) or fake.nbytes < size:
            continue
        if node.target is torch.ops.aten.copy_.default or not (is_view(node) or written(node)):
            yield f"{node.target} makes {fake.nbytes} bytes"


def bytes_allocated(session: Session, device: str) -> int:
    """What one step allocates: of the device's allocator, or of the host's as torch profiles it."""
    if device == "cpu":
        return sum(allocations(session.advance))
    before = torch.cuda.memory_stats()["allocated_bytes.all.allocated"]
    session.advance()
    return int(torch.cuda.memory_stats()["allocated_bytes.all.allocated"] - before)


def graph_launches(session: Session, steps: int, device: str) -> float:
    """Graph launches of a step: as the CUDA profiler counts them, on a CPU as the runner does."""
    if device == "cpu":
        before = sum(runner.counters.replays for runner in runners())
        for _ in range(steps):
            session.advance()
        return (sum(runner.counters.replays for runner in runners()) - before) / steps
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            session.advance()
        synchronize(device)
    return (
        sum(event.count for event in profiler.key_averages() if event.key == "cudaGraphLaunch")
        / steps
    )


def waits_nowhere(session: Session, device: str) -> bool:
    """Whether captured steps run while waiting for the device is an error."""
    if device == "cpu":
        return True  # the recorder refuses waits at the capture
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            session.advance()
    except RuntimeError:
        traceback.print_exc()
        return False
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True


def compiled(mode: str) -> Callable[..., Tensor]:
    torch._dynamo.reset()
    return torch.compile(step_with_logits, backend="ascend_dense", options={"cudagraph_mode": mode})


def make_model(kind: str, settings: argparse.Namespace) -> Any:
    from ascend_passes.models.build import small_model

    sizes = dict(TINY if settings.device == "cpu" else QWEN3_0_6B)
    if settings.layers:
        sizes["num_hidden_layers"] = settings.layers
    model = small_model("qwen3", KINDS[kind], seed=settings.seed, **sizes)
    if kind.startswith("w8a8"):
        from ascend_passes.models.quantize import quantize_model

        quantize_model(model, kind.removeprefix("w8a8-"), torch.randint(0, 512, (2, 16)))
    return model.to(settings.device)


def measure(model: Any, row: Row, settings: argparse.Namespace) -> None:
    from ascend_passes.capture.decode import Decoder, decode_loop
    from ascend_passes.options.plans import capture_sizes, padded_size
    from ascend_passes.options.value import Options

    device, steps = settings.device, settings.steps
    begin_row = time.perf_counter()
    length = PROMPT + 3 * steps + 64
    row.rows = padded_size(row.batch, capture_sizes(Options())) or row.batch
    vocabulary = model.config.vocab_size
    given = torch.randint(0, vocabulary, (row.batch, PROMPT), device=device)
    prompts = torch.cat([given, given[-1:].expand(row.rows - row.batch, -1)])

    eager = Session(step_with_logits, model, prompts, length)
    eager_tokens, _ = eager.collect(steps)
    row.eager_ms = milliseconds(eager, steps, device)
    row.cache_bytes = eager.cache.layers[0].keys.nbytes
    row.eager_bytes = bytes_allocated(eager, device)

    plain = Session(compiled("NONE"), model, prompts, length)
    plain_tokens, plain_logits = plain.collect(steps)
    row.compiled_ms = milliseconds(plain, steps, device)
    row.compiled_bytes = bytes_allocated(plain, device)

    gc.collect()
    known = set(map(id, runners()))
    graphs = Session(compiled("FULL_DECODE_ONLY"), model, prompts, length)
    first = graphs.tokens.clone()
    tokens, logits = graphs.collect(steps)
    row.captured_ms = milliseconds(graphs, steps, device)
    row.captured_bytes = bytes_allocated(graphs, device)
    new = [runner for runner in runners() if id(runner) not in known]

    row.check("captured logits differ from uncaptured", torch.equal(logits, plain_logits))
    row.check("captured tokens differ from uncaptured", torch.equal(tokens, plain_tokens))
    row.check("not captured as one graph", [r.counters.captures for r in new] == [1])
    for runner in new:
        row.failures += [miss.reason for miss in runner.report().misses]
        row.check("inputs are copied into the graph", runner.counters.bytes_in == 0)
        row.failures += large_results(runner, row.cache_bytes)
        for lookup in (torch.ops.aten.cos.default, torch.ops.aten.sin.default):
            found = runner.graph.find_nodes(op="call_function", target=lookup)
            row.check(f"{len(found)} lookups by {lookup}", len(found) == 1)
    row.launches = graph_launches(graphs, 8, device)
    row.check("a step is not one graph launch", row.launches == 1)
    row.check("a step waits for the host", waits_nowhere(graphs, device))
    same = (tokens[: row.batch] == eager_tokens[: row.batch]).float().mean().item()
    row.tokens_as_eager = f"{same:.1%}"
    chosen = torch.cat([first, tokens], 1)[: row.batch]
    check_accuracy(model, row, given, chosen, logits)

    decoder = Decoder(model, graphs.step, graphs.tokens, graphs.cache, length)
    captures = sum(runner.counters.captures for runner in new)
    decode_loop(decoder, given, max_new_tokens=WARM)
    begin = time.perf_counter()
    ahead = decode_loop(decoder, given, max_new_tokens=steps)
    row.loop_ms = (time.perf_counter() - begin) / steps * 1e3
    behind = decode_loop(decoder, given, max_new_tokens=steps, asynchronous=False)
    row.check("asynchronous tokens differ from synchronous", torch.equal(ahead, behind))
    row.check(
        "decode loop's tokens differ from the captured steps'",
        torch.equal(ahead[:, PROMPT:], chosen[:, :steps].cpu()),
    )
    again = sum(runner.counters.captures for runner in new)
    row.check("the next prompt is captured again", again == captures)
    row.seconds = time.perf_counter() - begin_row


def check_accuracy(model: Any, row: Row, given: Tensor, chosen: Tensor, logits: Tensor) -> None:
    """The captured logits of the first steps against float64 and eager, fed the same tokens."""
    from ascend_passes.models.compare import NO_WORSE, Error, limit_of
    from ascend_passes.models.generate import logits_of, new_cache
    from ascend_passes.models.reference import reference_logits

    count = min(EXACT_STEPS, logits.shape[1])
    following = chosen[:, :count]
    exact = reference_logits(model, given, following)[:, PROMPT:]
    cache = new_cache(model, row.batch, PROMPT + count)
    eager = logits_of(model, model, cache, given, following)[:, PROMPT:]
    row.error = Error.between(logits[: row.batch, :count], exact).relative
    row.eager_error = Error.between(eager, exact).relative
    limit = limit_of(model.dtype, row.kind.startswith("w8a8"))
    row.check(f"error {row.error:.2g} is above {limit}", row.error <= limit)
    if row.kind == "float32":
        row.check("float32 tokens are not eager's", row.tokens_as_eager == f"{1:.1%}")
    else:
        row.check(
            f"error {row.error:.2g} is above {NO_WORSE} times eager's {row.eager_error:.2g}",
            row.error <= NO_WORSE * row.eager_error,
        )


def table_of(rows: list[Row], device: str) -> Table:
    table = Table(title=f"Qwen3 decode on {device}: ms per step, and how much faster than eager")
    for name in (
        "weights",
        "batch",
        "eager",
        "compiled",
        "captured",
        "decode_loop",
        "launches",
        "error, eager's",
        "bytes a step, of a cache",
        "tokens as eager",
        "checks",
    ):
        table.add_column(name)

    def timed(row: Row, value: float) -> str:
        return f"{value:.3f} ({row.eager_ms / value:.2f}x)" if value else "-"

    for row in rows:
        size = f"{row.batch}" + (f" in {row.rows}" if row.rows not in (0, row.batch) else "")
        verdict = "[red]" + "; ".join(row.failures) if row.failures else "[green]all hold"
        table.add_row(
            row.kind,
            size,
            timed(row, row.eager_ms),
            timed(row, row.compiled_ms),
            timed(row, row.captured_ms),
            timed(row, row.loop_ms),
            f"{row.launches:g}",
            f"{row.error:.1e}, {row.eager_error:.1e}",
            f"{row.eager_bytes} to {row.compiled_bytes}, {row.cache_bytes}",
            row.tokens_as_eager,
            verdict,
        )
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 3, 8])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--layers", type=int, default=0, help="0 for the model's own number")
    parser.add_argument("--seconds", type=float, default=170, help="no row starts after so long")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


@torch.no_grad()
def main() -> int:
    settings = parse()
    use_source_tree()
    console = Console(width=180)
    torch.manual_seed(settings.seed)
    console.print(f"torch {torch.__version__}, seed {settings.seed}")
    rows: list[Row] = []
    begin = time.perf_counter()
    for kind in settings.kinds:
        try:
            model = make_model(kind, settings)
        except Exception as error:
            traceback.print_exc()
            rows.append(Row(kind, 0, failures=[f"no model: {type(error).__name__}: {error}"]))
            continue
        for batch in settings.batches:
            row = Row(kind, batch)
            rows.append(row)
            try:
                if time.perf_counter() - begin > settings.seconds:
                    raise TimeoutError(f"not run within {settings.seconds:g} seconds")
                measure(model, row, settings)
            except TimeoutError as error:
                row.failures.append(str(error))
            except Exception as error:
                traceback.print_exc()
                row.failures.append(f"{type(error).__name__}: {error}".splitlines()[0])
            console.print(f"{kind} batch {batch}: {'; '.join(row.failures) or 'all checks hold'}")
            write(rows, settings)
        del model
    console.print(table_of(rows, settings.device))
    return sum(bool(row.failures) for row in rows)


def write(rows: list[Row], settings: argparse.Namespace) -> None:
    """All rows so far, as JSON."""
    record = {
        "torch": torch.__version__,
        "device": settings.device,
        "seed": settings.seed,
        "steps": settings.steps,
        "rows": [asdict(row) for row in rows],
    }
    if settings.device == "cuda":
        record["gpu"] = torch.cuda.get_device_name()
    out = Path(os.environ.get("OUT", "build"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "cuda_decode.json").write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    sys.exit(main())
