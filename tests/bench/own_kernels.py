"""The operators that are ours alone, on a GPU: values against float64, and times beside torch.

    python tests/bench/own_kernels.py [--batches 1 32 128 256] [--tokens 1024] [--layers 4] [--tune]

* `decode_attention`: 64 query heads, 8 key heads of 128 columns, beside every backend of
  `scaled_dot_product_attention` that takes the call. With `--tune` other splits are timed as well,
  and the best is named: it belongs into `ascend_passes/npu/cuda/attention.py`.
* `qk_norm_rope`: heads of as many rows, beside what Inductor makes of the operators it stands for.
* steps of layers of Qwen3-32B's sizes with and without each of the two.

Each call is captured, over so many tensors that together they exceed the L2 cache. The exit status
is the number of results that are farther from float64 than their bound.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import ascend_passes  # noqa: E402 - found without an installation
from ascend_passes import npu  # noqa: E402
from ascend_passes.npu.cuda.attention import Split, attended, processors, split_for  # noqa: E402
from ascend_passes.npu.cuda.launch import launch_now  # noqa: E402
from ascend_passes.npu.norm import rms_norm  # noqa: E402
from ascend_passes.npu.rotary import rotary_mul  # noqa: E402
from tests.bench.device_timing import captured, milliseconds  # noqa: E402
from tests.bench.peers import require_no_errors, use_ascend_dense  # noqa: E402
from tests.bench.peers_stack import PlainStack  # noqa: E402
from tests.bench.qwen3_stack import Shape  # noqa: E402

QUERIES, KEYS, SIZE = 64, 8, 128
CACHE_BYTES = 200 << 20
ROUNDS = 7
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
Attention = tuple[Tensor, Tensor, Tensor]


def microseconds(call: Callable[..., Any], drawn: list[Any]) -> float:
    """Of one call, the median of rounds over all that was drawn; nan where it is not taken."""
    try:
        replay = captured(lambda: [call(*one) for one in drawn])
    except RuntimeError:
        return float("nan")
    repeats = 1 + 40 // len(drawn)
    found = [milliseconds(replay, repeats, "cuda") for _ in range(ROUNDS)]
    return 1e3 * statistics.median(found) / len(drawn)


def copies(size: int) -> int:
    """How many tensors of so many bytes exceed the L2 cache."""
    return max(1, min(64, CACHE_BYTES // size))


def drawn_attention(batch: int, tokens: int) -> list[Attention]:
    """Queries of one row, and caches."""
    drawn: dict[str, Any] = {"dtype": torch.bfloat16, "device": "cuda"}
    sizes = (batch, KEYS, tokens, SIZE)
    count = copies(4 * batch * KEYS * tokens * SIZE)
    return [
        (
            torch.randn((batch, KEYS, QUERIES // KEYS, SIZE), **drawn),
            torch.randn(sizes, **drawn),
            torch.randn(sizes, **drawn),
        )
        for _ in range(count)
    ]


def torchs(backend: SDPBackend | None) -> Callable[..., Tensor]:
    """torch's attention by one backend, or by the one that it chooses."""

    def call(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = query.view(query.shape[0], QUERIES, 1, SIZE)
        attention = torch.nn.functional.scaled_dot_product_attention
        with contextlib.nullcontext() if backend is None else sdpa_kernel([backend]):
            return attention(rows, key, value, enable_gqa=True)

    return call


def far_attention(given: Attention) -> float:
    """The largest error of one sequence as a share of what is allowed."""
    query, key, value = (t[:1].double() for t in given)
    weights = torch.softmax(query @ key.mT / SIZE**0.5, -1)
    exact, magnitude = weights @ value, weights @ value.abs()
    eps = torch.finfo(torch.bfloat16).eps
    found = npu.decode_attention(*given)[:1].double()
    return float(((found - exact).abs() / (eps * (exact.abs() + 2 * magnitude))).max())


def splits(batch: int, tokens: int) -> Iterator[Split]:
    """Other ways to share the length."""
    usual = split_for(batch * KEYS, tokens, SIZE, processors(torch.device("cuda", 0))).parts
    near = {max(1, usual // 4), max(1, usual // 2), usual, min(64, 2 * usual)}
    for parts, keys in itertools.product(sorted(near), (32, 64, 128)):
        for warps, stages in itertools.product((2, 4, 8), (2, 3, 4)):
            yield Split(keys, parts, warps, stages)


def split_time(split: Split, drawn: list[Attention]) -> float:
    """Microseconds of one way; infinite where it does not fit the GPU."""

    def call(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attended(launch_now, query, key, value, split=split)

    try:
        found = microseconds(call, drawn)
    except Exception as error:  # Triton has several for what does not fit
        print(f"    {split}: {type(error).__name__}", flush=True)
        return float("inf")
    return found if found == found else float("inf")


def attention_rows(settings: argparse.Namespace) -> Iterator[bool]:
    """Prints a line for each batch; whether its values are wrong."""
    peers = {"torch's choice": None, **BACKENDS}
    for batch in settings.batches:
        drawn = drawn_attention(batch, settings.tokens)
        share = far_attention(drawn[0])
        times = {name: microseconds(torchs(one), drawn) for name, one in peers.items()}
        times["ours"] = microseconds(npu.decode_attention, drawn)
        said = ", ".join(f"{name} {time:.1f}" for name, time in times.items())
        print(f"decode_attention, batch {batch}: {said} us; error {share:.2f} of the bound")
        if settings.tune:
            best = min(splits(batch, settings.tokens), key=lambda one: split_time(one, drawn))
            print(f"    best: {best}, {split_time(best, drawn):.1f} us", flush=True)
        yield share > 1.0


def apart(
    qkv: Tensor, query_gain: Tensor, key_gain: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, ...]:
    """What `qk_norm_rope` stands for, as graphs had it."""
    widths = [QUERIES * SIZE, KEYS * SIZE, KEYS * SIZE]
    parts = qkv.split(widths, -1)[:2]
    turned = []
    for part, gain in zip(parts, (query_gain, key_gain), strict=True):
        rows = rms_norm(part.unflatten(-1, (-1, SIZE)), gain)[0]
        turned.append(rotary_mul(rows.unsqueeze(0), cos, sin).squeeze(0))
    return tuple(turned)


def drawn_heads(rows: int) -> list[tuple[Tensor, ...]]:
    """Packed rows, gains and tables."""
    width = (QUERIES + 2 * KEYS) * SIZE
    drawn: dict[str, Any] = {"dtype": torch.bfloat16, "device": "cuda"}
    return [
        (
            torch.randn((rows, width), **drawn),
            *(1 + 0.2 * torch.randn((2, SIZE), **drawn)),
            *torch.rand((2, 1, rows, 1, SIZE), **drawn),
        )
        for _ in range(copies(4 * rows * width))
    ]


def heads_rows(settings: argparse.Namespace) -> Iterator[bool]:
    """Prints a line for each number of rows; whether its values are wrong."""
    for rows in (*settings.batches, 8192):
        drawn = drawn_heads(rows)
        torch._dynamo.reset()
        inductor = torch.compile(apart, dynamic=False, options={"emulate_precision_casts": True})

        def ours(*given: Tensor) -> tuple[Tensor, Tensor]:
            return npu.qk_norm_rope(*given, QUERIES, KEYS)

        wide = [t.double() for t in drawn[0]]
        far = max(
            float((found.double() - exact).abs().max() / exact.abs().max())
            for found, exact in zip(ours(*drawn[0]), apart_exact(*wide), strict=True)
        )
        times = {"Inductor": microseconds(inductor, drawn), "ours": microseconds(ours, drawn)}
        said = ", ".join(f"{name} {time:.2f}" for name, time in times.items())
        print(f"qk_norm_rope, {rows} rows: {said} us; largest error {far:.1e} of the largest value")
        yield far > 2 * torch.finfo(torch.bfloat16).eps


def apart_exact(
    qkv: Tensor, query_gain: Tensor, key_gain: Tensor, cos: Tensor, sin: Tensor
) -> Iterator[Tensor]:
    """float64 of both results."""
    cos, sin = cos[0], sin[0]
    first = QUERIES * SIZE
    parts = qkv[:, :first], qkv[:, first : first + KEYS * SIZE]
    for part, gain in zip(parts, (query_gain, key_gain), strict=True):
        heads = part.unflatten(-1, (-1, SIZE))
        normed = heads / (heads.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain
        low, high = normed.chunk(2, -1)
        yield normed * cos + torch.cat([-high, low], -1) * sin


STEPS = {
    "neither": "-qk_norm_rope",
    "qk_norm_rope": "+qk_norm_rope",
    "decode_attention": "-qk_norm_rope,+decode_attention",
    "both": "+qk_norm_rope,+decode_attention",
}
PROMPTS = (512, 2048)


def whole_steps(settings: argparse.Namespace) -> Iterator[bool]:
    """Prints milliseconds of captured steps; whether one is far from the eager one."""
    use_ascend_dense()
    model = PlainStack(Shape(), settings.layers, "cuda")
    steps = [*(("decode", n) for n in settings.batches), *(("prefill", n) for n in PROMPTS)]
    for kind, rows in steps:
        given = model.inputs(rows, settings.tokens if kind == "decode" else None)
        exact = model(*given).double()
        times, far = {}, {}
        for name, passes in STEPS.items():
            torch._dynamo.reset()
            ascend_passes.reset()
            step = torch.compile(
                model, backend="ascend_dense", options={"passes": passes}, dynamic=False
            )
            far[name] = float((step(*given).double() - exact).norm() / exact.norm())
            require_no_errors()
            times[name] = microseconds(step, [given]) / 1e3
        said = ", ".join(f"{name} {times[name]:.3f} ({far[name]:.3f})" for name in STEPS)
        print(f"{settings.layers} layers, {kind} {rows}, ms (distance): {said}", flush=True)
        yield max(far.values()) > 1.5 * far["neither"]


def main() -> int:
    """The number of wrong results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128, 256])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tune", action="store_true")
    settings = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    with torch.no_grad():
        parts = (heads_rows, attention_rows, whole_steps)
        return sum(wrong for part in parts for wrong in part(settings))


if __name__ == "__main__":
    sys.exit(main())
