"""In which tiles the int8 matmul works, by the sizes of the product.

`tiles.json` is what `tests/bench/tune_tiles.py` measured on an H100 or H200. A product that is not
in it takes the tile of the one that is most alike; nothing is tried out while a model runs, so that
a first call may be captured and ranks do not differ.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STORE = Path(__file__).with_name("tiles.json")


@dataclass(frozen=True)
class Tile:
    """One way to work on a product."""

    rows: int
    columns: int
    depth: int
    split: int = 1
    """Programs that share the K of a tile; their sums are added by a kernel of its own."""
    warps: int = 4
    stages: int = 3
    few: bool = True
    """Which kernel: the one for few rows, or the one for many."""
    turned: bool = False
    """Whether the weight's rows are the rows of the product inside; few rows only."""
    tma: bool = False
    """Whether the GPU copies whole tiles, where it can; many rows only."""
    group: int = 8
    """Tiles of rows that follow each other; many rows only."""


@dataclass(frozen=True)
class ProductSize:
    """The sizes that a tile was measured for."""

    rows: int
    width: int
    depth: int

    def distance(self, other: ProductSize) -> float:
        """How unlike two products are; the rows count most, since they choose the kernel."""
        return (
            4 * abs(math.log2(self.rows / other.rows))
            + abs(math.log2(self.width / other.width))
            + abs(math.log2(self.depth / other.depth))
        )


@functools.cache
def measured() -> Mapping[ProductSize, Tile]:
    """ProductSize -> the tile that was fastest."""
    return {
        ProductSize(*row["product"]): Tile(**row["tile"]) for row in json.loads(STORE.read_text())
    }


@functools.cache
def tile_for(rows: int, width: int, depth: int) -> Tile:
    """The tile for a product, `[rows, depth] @ [depth, width]`."""
    product, known = ProductSize(rows, width, depth), measured()
    return known[min(known, key=product.distance)]
