"""Measures which tile the int8 matmul is fastest in, and writes the table that the package ships.

    python tests/bench/tune_tiles.py [--rows 1 32 ...] [--minutes 4] [--out FOLDER]

Each candidate's result is compared with `torch._int_mm` bit for bit before it is timed, by replays
of a device graph over weights that together are larger than the L2 cache. `tiles.json` in the
folder is the new table: what was measured now, and what the present one has besides.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from ascend_passes.npu.cuda.matmul import ProductCall, launch_product  # noqa: E402
from ascend_passes.npu.cuda.tiles import STORE, ProductSize, Tile  # noqa: E402
from tests.bench.device_timing import captured  # noqa: E402

ROWS = (1, 16, 32, 64, 128, 256, 512, 2048, 8192)
WIDTHS_DEPTHS = ((10240, 5120), (5120, 8192), (51200, 5120), (5120, 25600))
"""Of one Qwen3-32B layer: qkv, output, gate and up, down."""
CACHE_BYTES = 200 << 20
SHARED_BYTES = 225_000
FEW_TILES = 2000
"""Tiles of a product below which a split of K may pay."""


def candidates(rows: int) -> Iterator[Tile]:
    """What may be fast for so many rows."""
    if rows <= 256:
        height = max(16, min(128, 1 << (rows - 1).bit_length()))
        for width, depth, split in itertools.product((64, 128), (128, 256), (1, 2, 4)):
            yield from few_tiles(height, width, depth, split)
    if rows >= 128:
        yield from many_tiles(rows)


def few_tiles(height: int, width: int, depth: int, split: int) -> Iterator[Tile]:
    """Tiles of the kernel for few rows; stages as many as fit, so that loads run far ahead."""
    stages = min(
        6, (SHARED_BYTES // 2 if width < 128 else SHARED_BYTES) // ((height + width) * depth)
    )
    if stages >= 3:
        yield Tile(height, width, depth, split, 8 if width > 64 else 4, stages, True, True)


def many_tiles(rows: int) -> Iterator[Tile]:
    """Tiles of the kernels for many rows."""
    shapes = (
        *((128, 256, 128, 8, 4), (128, 256, 128, 8, 3), (128, 128, 128, 4, 3)),
        *((128, 128, 128, 8, 5), (256, 128, 128, 8, 4), (128, 128, 128, 8, 3)),
        *((64, 128, 128, 4, 4), (64, 256, 128, 4, 4), (128, 64, 128, 4, 5), (64, 128, 256, 4, 4)),
    )
    for height, width, depth, warps, stages in shapes:
        if height <= max(rows, 128):
            yield Tile(height, width, depth, 1, warps, stages, few=False, tma=True)
    yield Tile(128, 128, 128, 1, 8, 3, few=False)


def milliseconds(step: Any, replays: int) -> float:
    """The least of three rounds of graph replays."""
    replay = captured(step)
    found = []
    for _ in range(3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(replays):
            replay()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / replays)
    return min(found)


class Bench:
    """One product's tensors, the weight several times over."""

    def __init__(self, product: ProductSize) -> None:
        m, n, k = product.rows, product.width, product.depth
        copies = max(1, CACHE_BYTES // (n * k)) + 1
        draw = {"dtype": torch.int8, "device": "cuda"}
        self.weights = [torch.randint(-127, 128, (n, k), **draw).t() for _ in range(copies)]
        self.rows = torch.randint(-127, 128, (m, k), **draw)
        self.scale = torch.rand(n, device="cuda") / 1000
        self.row_scale = torch.rand(m, device="cuda")
        self.out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
        self.expected = self.plain(self.weights[0])

    def plain(self, weight: Tensor) -> Tensor:
        count = self.rows.shape[0]
        rows = torch.nn.functional.pad(self.rows, (0, 0, 0, max(0, 17 - count)))
        total = torch._int_mm(rows, weight)[:count].float()
        return (total * self.scale * self.row_scale.unsqueeze(-1)).to(torch.bfloat16)

    def launch(self, weight: Tensor, tile: Tile) -> None:
        launch_product(
            ProductCall(self.rows, weight.t(), self.scale, self.row_scale, None, self.out), tile
        )

    def right(self, tile: Tile) -> bool:
        self.out.fill_(float("nan"))
        self.launch(self.weights[0], tile)
        return torch.equal(self.out, self.expected)

    def time(self, call: Any) -> float:
        def step() -> None:
            for weight in self.weights:
                call(weight)

        return milliseconds(step, 3) / len(self.weights)

    def cublas(self) -> float:
        count = self.rows.shape[0]
        rows = torch.nn.functional.pad(self.rows, (0, 0, 0, max(0, 17 - count)))
        return self.time(lambda weight: torch._int_mm(rows, weight))


def compile_all(products: list[ProductSize]) -> None:
    """Compile every candidate, many at a time; one that does not fit the card is left."""
    shapes = {(p.rows, p.depth % 512 == 0) for p in products}
    tiles = {(rows, tile) for rows, _ in shapes for tile in candidates(rows)}
    benches: dict[int, Bench] = {r: Bench(ProductSize(r, 5120, 8192)) for r, _ in shapes}

    def one(pair: tuple[int, Tile]) -> None:
        try:
            benches[pair[0]].launch(benches[pair[0]].weights[0], pair[1])
        except Exception:  # too much shared memory, or no instruction for it
            return

    with ThreadPoolExecutor(int(os.environ.get("JOBS", "16"))) as pool:
        list(pool.map(one, sorted(tiles, key=str)))
    torch.cuda.synchronize()


def best_of(product: ProductSize, end: float) -> dict[str, Any] | None:
    """The fastest tile of a product and its milliseconds, beside cuBLAS alone."""
    bench, found = Bench(product), []
    for tile in candidates(product.rows):
        blocks = -(-product.width // tile.columns) * -(-product.rows // tile.rows)
        if time.time() > end or (tile.split > 1 and blocks > FEW_TILES):
            continue
        try:
            if bench.right(tile):
                call = functools.partial(bench.launch, tile=tile)
                found.append((bench.time(call), tile))
        except Exception as error:
            print(f"{product} {tile}: {type(error).__name__} {str(error)[:80]}", flush=True)
    if not found:
        return None
    ms, tile = min(found, key=lambda pair: pair[0])
    row = {"product": [product.rows, product.width, product.depth], "tile": asdict(tile)}
    cublas = bench.cublas()
    times = f"{ms * 1e3:.1f} us, cuBLAS alone {cublas * 1e3:.1f}"
    runners = sorted((round(t * 1e3, 1), str(one)) for t, one in found)[1:4]
    print(f"{row['product']} {times}: {tile}; then {runners}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", default=os.environ.get("OUT", "build"))
    settings = parser.parse_args()
    begin = time.time()
    products = [ProductSize(r, n, k) for r in settings.rows for n, k in WIDTHS_DEPTHS]
    compile_all(products)
    print(f"compiled in {time.time() - begin:.0f} s on {torch.cuda.get_device_name()}", flush=True)
    kept = {tuple(row["product"]): row for row in json.loads(STORE.read_text())}
    for product in products:
        row = best_of(product, begin + settings.minutes * 60)
        if row is not None:
            kept[tuple(row["product"])] = row
        rows = sorted(kept.values(), key=lambda one: one["product"])
        text = ",\n".join(json.dumps(one) for one in rows)
        (Path(settings.out) / "tiles.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
